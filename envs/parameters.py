"""Settings as a record that kernels read: `parameters[0].slow_factor`."""

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
    for name, hint in get_type_hints(type(config)).items():
        value = getattr(config, name)
        if get_origin(hint) is Literal:
            values[name] = get_args(hint).index(value)
        elif hint in (bool, int, float):
            values[name] = value
    values |= derived
    arrays = {name: np.asarray(value) for name, value in values.items()}
    fields = [(name, array.dtype, array.shape) for name, array in arrays.items()]
    return np.array([tuple(values.values())], fields)
