"""Checkpoints: checksummed files, written atomically and read without executing code.

A file is one ASCII line, `grpo-gym-checkpoint <format version> <SHA-256> <number of bytes>`,
followed by that many bytes of `torch.save`. Tensors may have any shape and dtype.
"""

import codecs
import hashlib
import io
import json
import os
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from torch import Tensor

from grpo_gym.storage import CheckpointError
from grpo_gym.storage.files import write_atomic

FORMAT_VERSION = 1
_MAGIC = b"grpo-gym-checkpoint "
_HEADER_LIMIT = 128
_SCALAR_TYPES = (bool, int, float, str, bytes, type(None))
# torch reads integers of up to 255 bytes, but writes longer ones too.
_LARGEST_INT_BITS = 255 * 8 - 1
_DEEPEST = 100
"""Nested containers; what prints or compares a payload is recursive."""


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
    header = f"{FORMAT_VERSION} {hashlib.sha256(body).hexdigest()} {len(body)}\n".encode()
    try:
        write_atomic(path, _MAGIC, header, body)
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
        _refuse(path, f"kind must be {kind!r}, got {found!r}: choose another file")
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
    digest = hashlib.sha256()
    for name in sorted(state_dict):
        tensor = _portable_tensor(state_dict[name], name)
        entry = [name, str(tensor.dtype), list(tensor.shape)]
        digest.update(json.dumps(entry).encode() + b"\n")
        digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _read(path: str | os.PathLike[str]) -> tuple[str, dict[str, Any]]:
    """Kind and payload."""
    body = _read_verified_body(path)
    try:
        _refuse_compression(body)
        content = torch.load(io.BytesIO(body), weights_only=True, map_location="cpu")
    except Exception as error:  # torch may raise anything for a forged file
        # torch's own message would advise the user to disable the safe mode.
        reason = f"torch cannot read its content safely ({type(error).__name__})"
        _refuse(path, f"{reason}: do not use it", error)
    match content:
        case {"kind": str(kind), "payload": dict(payload)} if not _is_odd(payload):
            return kind, payload
        case _:
            _refuse(path, "its content is not what grpo-gym writes: do not use it")


def _refuse_compression(body: bytes) -> None:
    """Refuse an archive that grows when it is read: `torch.save` compresses nothing.

    Raises:
        ValueError: If it would, or is no archive.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(body)) as archive:
            size = sum(entry.file_size for entry in archive.infolist())
    except zipfile.BadZipFile as error:
        raise ValueError("not an archive") from error
    if size > len(body):
        raise ValueError("compressed")


def _is_odd(payload: Any) -> bool:
    """Whether a payload holds what `save` never writes.

    That is a container in two places or in itself, whose printed form may be endless; nesting
    beyond `_DEEPEST`; or a tensor whose data are not all in the file.
    """
    seen = set()
    pending = [(payload, 1)]
    while pending:
        value, depth = pending.pop()
        if isinstance(value, Tensor):
            dense = value.layout is torch.strided and not value.is_meta
            size = value.numel() * value.element_size()
            if not dense or value.untyped_storage().nbytes() < size:
                return True
        elif isinstance(value, (dict, list, tuple)) and value:
            if id(value) in seen or depth > _DEEPEST:
                return True
            seen.add(id(value))
            items = value.values() if isinstance(value, dict) else value
            pending += [(item, depth + 1) for item in items]
    return False


def _read_verified_body(path: str | os.PathLike[str]) -> bytes:
    """The bytes after the header, after checks of magic, version, length and SHA-256."""
    try:
        if Path(path).exists() and not Path(path).is_file():
            _refuse(path, "it is a folder or a device, not a file: name the checkpoint itself")
        with open(path, "rb") as file:
            header = file.readline(_HEADER_LIMIT)
            sha256, length = _parse_header(path, header)
            found = os.fstat(file.fileno()).st_size - len(header)
            if found != length:
                state = "truncated" if found < length else "followed by other data"
                _refuse(path, f"it is {state} ({found} of {length} bytes): use another copy")
            body = file.read()
    except FileNotFoundError as error:
        _refuse(path, "there is no such file: check the path", error)
    except OSError as error:
        _refuse(path, f"{error.strerror or error}: check the path and its permissions", error)
    if hashlib.sha256(body).hexdigest() != sha256:
        _refuse(path, "it is damaged (its SHA-256 does not match): use another copy")
    return body


def _parse_header(path: str | os.PathLike[str], header: bytes) -> tuple[str, int]:
    if not header.startswith(_MAGIC):
        if _MAGIC.startswith(header):
            _refuse(path, "it is empty or truncated within its first line: use another copy")
        kind = "a PyTorch or zip archive" if header.startswith(b"PK") else "another kind of file"
        _refuse(path, f"it is not a grpo-gym checkpoint but {kind}: choose another file")
    rest = header.removeprefix(_MAGIC)
    version = re.match(rb"([0-9]{1,9}) ", rest)
    if version and int(version[1]) > FORMAT_VERSION:
        _refuse(
            path,
            f"format version must be <= {FORMAT_VERSION}, got {int(version[1])}: "
            "upgrade grpo-gym, which is older than the file",
        )
    fields = re.fullmatch(rb"%d ([0-9a-f]{64}) ([0-9]{1,18})\n" % FORMAT_VERSION, rest)
    if not fields:
        _refuse(path, "its first line is damaged or truncated: use another copy")
    return fields[1].decode(), int(fields[2])


def _refuse(
    path: str | os.PathLike[str], reason: str, cause: BaseException | None = None
) -> NoReturn:
    raise CheckpointError(f"cannot load {os.fspath(path)}: {reason}") from cause


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
