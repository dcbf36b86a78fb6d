"""Training loops over grouped rollouts. Installed as `grpo_gym.trainers`."""
