"""The outside of a checkpoint: a checksummed body, checked before anything in it is read.

A file is one ASCII line, `grpo-gym-checkpoint <format version> <SHA-256> <number of bytes>`,
followed by that many bytes, an archive of `torch.save`. Nothing here knows torch: `checkpoint`
reads the archive with it, and `grpo_gym.inference` without.
"""

import hashlib
import io
import json
import os
import re
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

from grpo_gym.storage import CheckpointError

FORMAT_VERSION = 1
_MAGIC = b"grpo-gym-checkpoint "
_HEADER_LIMIT = 128
_DEEPEST = 100
"""Nested containers; what prints or compares a payload is recursive."""


def header_of(body: memoryview) -> bytes:
    """The first line of a file with this body."""
    digest = hashlib.sha256(body).hexdigest()
    return _MAGIC + f"{FORMAT_VERSION} {digest} {len(body)}\n".encode()


def read_body(path: str | os.PathLike[str]) -> bytes:
    """The bytes after the header, after checks of magic, version, length and SHA-256.

    Raises:
        CheckpointError: If one is wrong, or the file cannot be read.
    """
    try:
        if Path(path).exists() and not Path(path).is_file():
            refuse(path, "it is a folder or a device, not a file: name the checkpoint itself")
        with open(path, "rb") as file:
            header = file.readline(_HEADER_LIMIT)
            sha256, length = _parse_header(path, header)
            found = os.fstat(file.fileno()).st_size - len(header)
            if found != length:
                state = "truncated" if found < length else "followed by other data"
                refuse(path, f"it is {state} ({found} of {length} bytes): use another copy")
            body = file.read()
    except FileNotFoundError as error:
        refuse(path, "there is no such file: check the path", error)
    except OSError as error:
        refuse(path, f"{error.strerror or error}: check the path and its permissions", error)
    if hashlib.sha256(body).hexdigest() != sha256:
        refuse(path, "it is damaged (its SHA-256 does not match): use another copy")
    return body


def open_archive(body: bytes) -> zipfile.ZipFile:
    """The archive of a body; `torch.save` compresses nothing, so one that would grow is refused.

    Raises:
        ValueError: If it would, or is no archive.
    """
    try:
        archive = zipfile.ZipFile(io.BytesIO(body))
    except zipfile.BadZipFile as error:
        raise ValueError("not an archive") from error
    if sum(entry.file_size for entry in archive.infolist()) > len(body):
        raise ValueError("compressed")
    return archive


def leaves(payload: Any) -> Iterator[Any]:
    """What a payload holds that is no container.

    Raises:
        ValueError: If a container is in two places or in itself, whose printed form may be
            endless, or containers are nested beyond `_DEEPEST`.
    """
    seen = set()
    pending = [(payload, 1)]
    while pending:
        value, depth = pending.pop()
        if not isinstance(value, (dict, list, tuple)):
            yield value
        elif value:
            if id(value) in seen or depth > _DEEPEST:
                raise ValueError("containers are shared, or nested too deeply")
            seen.add(id(value))
            items = value.values() if isinstance(value, dict) else value
            pending += [(item, depth + 1) for item in items]


def weights_digest(weights: Iterable[tuple[str, str, Sequence[int], bytes | memoryview]]) -> str:
    """Hash weights; equal for equal ones, in whichever order they come.

    Args:
        weights: Name, dtype as torch calls it, shape, and bytes of each.

    Returns:
        SHA-256 in hexadecimal, of bits: 0.0 and -0.0 differ, a nan equals itself.
    """
    digest = hashlib.sha256()
    for name, dtype, shape, numbers in sorted(weights, key=lambda each: each[0]):
        digest.update(json.dumps([name, dtype, list(shape)]).encode() + b"\n")
        digest.update(numbers)
    return digest.hexdigest()


def refuse(
    path: str | os.PathLike[str], reason: str, cause: BaseException | None = None
) -> NoReturn:
    """Say that a file cannot be used.

    Raises:
        CheckpointError: Always.
    """
    raise CheckpointError(f"cannot load {os.fspath(path)}: {reason}") from cause


def _parse_header(path: str | os.PathLike[str], header: bytes) -> tuple[str, int]:
    if not header.startswith(_MAGIC):
        if _MAGIC.startswith(header):
            refuse(path, "it is empty or truncated within its first line: use another copy")
        kind = "a PyTorch or zip archive" if header.startswith(b"PK") else "another kind of file"
        refuse(path, f"it is not a grpo-gym checkpoint but {kind}: choose another file")
    rest = header.removeprefix(_MAGIC)
    version = re.match(rb"([0-9]{1,9}) ", rest)
    if version and int(version[1]) > FORMAT_VERSION:
        refuse(
            path,
            f"format version must be <= {FORMAT_VERSION}, got {int(version[1])}: "
            "upgrade grpo-gym, which is older than the file",
        )
    fields = re.fullmatch(rb"%d ([0-9a-f]{64}) ([0-9]{1,18})\n" % FORMAT_VERSION, rest)
    if not fields:
        refuse(path, "its first line is damaged or truncated: use another copy")
    return fields[1].decode(), int(fields[2])
