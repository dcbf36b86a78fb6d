"""The embedded reverse proxy: `grpo-gym route`. See docs/routing.md."""
