"""Checkpoints: checksummed files, written atomically and read without executing code.

`container` says how a file begins; its body is that of `torch.save`. Tensors may have any shape and
dtype.
"""

import codecs
import io
import os
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from grpo_gym.storage import CheckpointError
from grpo_gym.storage.container import (
    FORMAT_VERSION,
    header_of,
    leaves,
    open_archive,
    read_body,
    refuse,
    weights_digest,
)
from grpo_gym.storage.files import write_atomic

_SCALAR_TYPES = (bool, int, float, str, bytes, type(None))
# torch reads integers of up to 255 bytes, but writes longer ones too.
_LARGEST_INT_BITS = 255 * 8 - 1


def save(path: str | os.PathLike[str], payload: dict[str, Any], *, kind: str) -> None:
    """Write a checkpoint atomically: the path holds the old file or the new one at any time.

    Args:
        path: The file; parent folders are created.
        payload: Nested dicts, lists and tuples of tensors, numbers, strings, bytes, booleans and
            None. Tensors are saved detached and on the CPU, numpy scalars as Python numbers.
        kind: Kind of payload, such as "model"; `load` must ask for the same.

    Raises:
        CheckpointError: If the payload holds another type (a numpy array, for example) or the
            file cannot be written.
    """
    if not isinstance(payload, dict):
        raise CheckpointError(f"payload must be a dict, got {type(payload).__name__}")
    buffer = io.BytesIO()
    try:
        content = {
            "format_version": FORMAT_VERSION,
            "kind": kind,
            "payload": _portable(payload, "payload"),
        }
        if _is_odd(content):
            raise RecursionError
        torch.save(content, buffer)
    except RecursionError as error:
        raise CheckpointError(f"cannot save {path}: payload is nested too deeply") from error
    body = buffer.getbuffer()
    try:
        write_atomic(path, header_of(body), body)
    except OSError as error:
        raise CheckpointError(
            f"cannot save {path}: {error.strerror or error}: free space or choose another path; "
            "the old file is unchanged"
        ) from error


def load(path: str | os.PathLike[str], *, kind: str) -> dict[str, Any]:
    """Read a checkpoint that `save` wrote, without executing code from the file.

    Args:
        path: The file.
        kind: Kind of payload, as given to `save`.

    Returns:
        The payload, with tensors on the CPU.

    Raises:
        CheckpointError: If the file is missing or damaged, or has another format, a newer version
            or another kind.
    """
    found, payload = _read(path)
    if found != kind:
        refuse(path, f"kind must be {kind!r}, got {found!r}: choose another file")
    return payload


def kind_of(path: str | os.PathLike[str]) -> str:
    """The kind of a checkpoint's payload, as given to `save`.

    Raises:
        CheckpointError: As in `load`.
    """
    return _read(path)[0]


def weights_sha256(state_dict: Mapping[str, Tensor]) -> str:
    """Hash names, dtypes, shapes and values; equal for equal weights on any device.

    Args:
        state_dict: Tensors by name, in any order.

    Returns:
        SHA-256 in hexadecimal, of bits: 0.0 and -0.0 differ, a nan equals itself.

    Raises:
        CheckpointError: If a value is not a dense tensor.
    """
    tensors = {name: _portable_tensor(value, name) for name, value in state_dict.items()}
    return weights_digest(
        (name, str(tensor.dtype), tensor.shape, _bytes_of(tensor))
        for name, tensor in tensors.items()
    )


def _bytes_of(tensor: Tensor) -> memoryview:
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data


def _read(path: str | os.PathLike[str]) -> tuple[str, dict[str, Any]]:
    """Kind and payload."""
    body = read_body(path)
    try:
        open_archive(body).close()
        content = torch.load(io.BytesIO(body), weights_only=True, map_location="cpu")
    except Exception as error:  # torch may raise anything for a forged file
        # torch's own message would advise the user to disable the safe mode.
        reason = f"torch cannot read its content safely ({type(error).__name__})"
        refuse(path, f"{reason}: do not use it", error)
    match content:
        case {"kind": str(kind), "payload": dict(payload)} if not _is_odd(payload):
            return kind, payload
        case _:
            refuse(path, "its content is not what grpo-gym writes: do not use it")


def _is_odd(payload: Any) -> bool:
    """Whether a payload holds what `save` never writes.

    It never writes containers that `container.leaves` refuses, nor a tensor whose data are not all
    in the file.
    """
    try:
        return any(_lacks_data(leaf) for leaf in leaves(payload) if isinstance(leaf, Tensor))
    except ValueError:
        return True


def _lacks_data(tensor: Tensor) -> bool:
    dense = tensor.layout is torch.strided and not tensor.is_meta
    size = tensor.numel() * tensor.element_size()
    return not dense or tensor.untyped_storage().nbytes() < size


class _EmptyBytes:
    """Pickles b"" like all other bytes, because torch does not read pickle's own encoding."""

    def __reduce__(self) -> tuple[Any, ...]:
        return codecs.encode, ("", "latin1")


def _portable(value: Any, name: str) -> Any:
    """A copy that torch reads with weights_only=True; `name` is its place in the payload."""
    if isinstance(value, Tensor):
        return _portable_tensor(value, name)
    if isinstance(value, dict):
        return {
            _portable_scalar(key, f"key of {name}"): _portable(item, f"{name}[{key!r}]")
            for key, item in value.items()
        }
    if type(value) in (list, tuple):
        return type(value)(_portable(item, f"{name}[{i}]") for i, item in enumerate(value))
    if isinstance(value, np.ndarray):
        raise CheckpointError(
            f"{name} must not be a numpy array, got shape {value.shape}: "
            "save torch.as_tensor(array), and call .numpy() on it after loading"
        )
    return _portable_scalar(value, name)


def _portable_tensor(value: Any, name: str) -> Tensor:
    if not isinstance(value, Tensor) or value.layout is not torch.strided or value.is_meta:
        raise CheckpointError(
            f"{name} must be a dense tensor with data, got {type(value).__name__}"
        )
    tensor = value.detach().cpu().resolve_conj().resolve_neg()
    # A view would save its whole base.
    owns_its_storage = tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size()
    return tensor if owns_its_storage else tensor.clone()


def _portable_scalar(value: Any, name: str) -> Any:
    scalar = value.item() if isinstance(value, np.generic) else value
    if type(scalar) not in _SCALAR_TYPES:
        raise CheckpointError(
            f"{name} must be a tensor, dict, list, tuple, number, string, bytes or None, "
            f"got {type(value).__name__}: convert it before saving"
        )
    if type(scalar) is bytes and not scalar:
        return _EmptyBytes()
    if type(scalar) is int and scalar.bit_length() > _LARGEST_INT_BITS:
        raise CheckpointError(
            f"{name} must have at most {_LARGEST_INT_BITS} bits, got {scalar.bit_length()}: "
            "save it as a string"
        )
    return scalar
