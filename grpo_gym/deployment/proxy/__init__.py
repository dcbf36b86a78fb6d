"""The embedded reverse proxy of `grpo-gym route`."""
