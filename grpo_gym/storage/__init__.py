"""Checkpoints, atomic files, results of experiments."""
