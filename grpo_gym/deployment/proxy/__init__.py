"""The embedded reverse proxy: `grpo-gym route`. See docs/how_to/routing.md."""
