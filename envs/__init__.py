"""The registered environments. Installed as `grpo_gym.envs`; knows nothing of torch."""
