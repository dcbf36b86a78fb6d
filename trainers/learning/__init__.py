"""From a rollout to better weights: advantages, objectives, updates."""
