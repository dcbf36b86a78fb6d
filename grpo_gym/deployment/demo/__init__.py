"""`grpo-gym demo traffic`: real HTTP requests, backends that fail, and policies side by side."""
