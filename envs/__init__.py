"""The native environments, installed as `grpo_gym.envs`; they import no torch."""
