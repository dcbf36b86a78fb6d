"""Trained policies without torch: `NumpyPolicy`."""

from grpo_gym.inference.numpy_policy import NumpyPolicy

__all__ = ["NumpyPolicy"]
