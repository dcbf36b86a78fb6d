"""Checkpoints, atomic files, and results of experiments."""


class CheckpointError(RuntimeError):
    """A checkpoint that cannot be written or read; the message has the reason and a remedy."""
