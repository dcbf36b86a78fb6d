"""Settings as a record that kernels read: `parameters[0].slow_factor`."""

from functools import lru_cache
from typing import Any, Literal, get_args, get_origin, get_type_hints

import numpy as np


def kernel_parameters(config: Any, **derived: Any) -> np.ndarray:
    """Make a record of a configuration's numbers and switches, and of what follows from them.

    A choice among names is stored as its index in the field's `Literal`. The record's fields do
    not depend on the settings, so kernels are compiled once.

    Args:
        config: The settings, a dataclass. Fields of other types than bool, int, float and
            `Literal` are left out.
        **derived: More numbers or arrays of them.

    Returns:
        Shape (1,).
    """
    values = {}
    for name, choices in _fields(config.__class__):
        value = getattr(config, name)
        values[name] = choices.index(value) if choices else value
    values |= derived
    arrays = {name: np.asarray(value) for name, value in values.items()}
    fields = tuple((name, array.dtype, array.shape) for name, array in arrays.items())
    return np.array([tuple(values.values())], _record_type(fields))


@lru_cache
def _record_type(fields: tuple[tuple[str, np.dtype[Any], tuple[int, ...]], ...]) -> np.dtype[Any]:
    """One object for equal fields: numba compares different ones field by field at every call."""
    return np.dtype(list(fields))


@lru_cache
def _fields(config_class: type) -> list[tuple[str, tuple[Any, ...]]]:
    """Names of the fields that a record holds, with the choices of each that has some."""
    hints = get_type_hints(config_class)
    choices = {name: get_args(hint) for name, hint in hints.items() if get_origin(hint) is Literal}
    plain = {name: () for name, hint in hints.items() if hint in (bool, int, float)}
    return [(name, {**choices, **plain}[name]) for name in hints if name in choices | plain]
