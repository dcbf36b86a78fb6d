"""What may go wrong in the demonstration itself."""


class DemoError(OSError):
    """A process of the demonstration that did not start."""
