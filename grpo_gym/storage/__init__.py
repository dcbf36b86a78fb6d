"""Checkpoints, atomic files, and results of experiments."""
