"""How processes bring tensors to each other; `ProcessGroup` makes everything of it.

Shapes: P processes.
"""

from collections.abc import Callable
from typing import Protocol

from torch import Tensor

Check = Callable[[], None]
"""Called each `watch.LOOK_SECONDS` of a wait; raises what happened to another process."""


class Exchange(Protocol):
    """All processes call the same methods in the same order.

    What is received may lie in memory that the next exchange overwrites.
    """

    def gather(self, mine: Tensor, check: Check) -> list[Tensor]:
        """What all P processes bring, in order: tensors of one shape and type.

        Raises:
            RuntimeError, BrokenPipeError: If the connection to another process broke.
        """

    def gather_unequal(self, mine: Tensor, check: Check) -> list[Tensor]:
        """The same for bytes of any number, shape (N,), uint8."""

    def close(self) -> None:
        """Leave the others; they have come to their end as well."""
