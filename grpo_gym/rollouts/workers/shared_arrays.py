"""Arrays in memory that processes share.

The memory has no name: it ends with the last process that holds it, however that one ends, and
leaves nothing in /dev/shm.
"""

import mmap
import os
import tempfile
from collections.abc import Mapping

import numpy as np

_ALIGNMENT = 64

ArrayKind = tuple[tuple[int, ...], np.dtype[np.generic]]
"""Shape and type of an array."""


class SharedArrays:
    """Arrays by name, zero at first.

    Attributes:
        descriptor: The file descriptor to pass on to another process.
    """

    def __init__(self, kinds: Mapping[str, ArrayKind], descriptor: int | None = None) -> None:
        """Make the memory, or map that which another process made for the same arrays."""
        offsets, size = {}, 0
        for name, (shape, dtype) in kinds.items():
            offsets[name] = size
            size += -(-int(np.prod(shape)) * dtype.itemsize // _ALIGNMENT) * _ALIGNMENT
        size = max(size, _ALIGNMENT)
        self.descriptor = _unnamed_file(size) if descriptor is None else descriptor
        memory = mmap.mmap(self.descriptor, size)
        self._arrays: dict[str, np.ndarray] = {
            name: np.ndarray(shape, dtype, memory, offsets[name])
            for name, (shape, dtype) in kinds.items()
        }

    def __getitem__(self, name: str) -> np.ndarray:
        return self._arrays[name]

    def rows(self, start: int, stop: int) -> dict[str, np.ndarray]:
        """The part of each array between two indices of its first axis, not copied."""
        return {name: array[start:stop] for name, array in self._arrays.items()}

    def close(self) -> None:
        """Give up the file descriptor; the arrays stay usable."""
        os.close(self.descriptor)


def unnamed_file() -> int:
    """The descriptor of a file that is nowhere to be found, for another process to write to."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create("grpo-gym")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


def _unnamed_file(size: int) -> int:
    descriptor = unnamed_file()
    os.ftruncate(descriptor, size)
    return descriptor
