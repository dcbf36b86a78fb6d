"""GRPO beside algorithms of Stable-Baselines3, with the same steps, episodes and clocks."""
