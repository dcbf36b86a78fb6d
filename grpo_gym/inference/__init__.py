"""Trained policies without torch: NumPy alone."""
