"""Atomic writes, which survive a kill or a full disk."""

import contextlib
import glob
import os
import re
import secrets
import sys
from pathlib import Path
from typing import BinaryIO

if sys.platform != "win32":
    import fcntl


def write_atomic(path: str | os.PathLike[str], *chunks: bytes | memoryview) -> None:
    """Replace a file atomically: a reader finds either the old content or the new.

    Creates parent folders and removes temporary files of this target that a killed writer left. Of
    a symbolic link, the file it leads to is replaced.

    Args:
        path: The file.
        chunks: Its content, in order.

    Raises:
        OSError: If it cannot be written; the old file is then unchanged.
    """
    path = Path(os.path.realpath(path)) if os.path.islink(path) else Path(path)
    make_folder_of(path)
    _remove_stale_temporaries(path)
    temporary, file = _open_temporary(path)
    try:
        with file:
            file.writelines(chunks)
            file.flush()
            os.fsync(file.fileno())
            if sys.platform == "win32":
                file.close()
            os.replace(temporary, path)
    except OSError as error:  # errors of writing do not name the file
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        temporary.unlink(missing_ok=True)
    # Some file systems cannot flush a folder; the content is safe already.
    with contextlib.suppress(OSError):
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def make_folder_of(path: Path) -> None:
    """Make the folder of a file.

    Raises:
        OSError: If that is impossible, or the file is a folder or a device.
    """
    if path.exists() and not path.is_file():
        raise OSError(f"{path} is a folder or a device, not a file")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        raise NotADirectoryError(f"{path.parent} is not a folder") from error


def is_leftover(path: Path) -> bool:
    """Whether a file is a temporary one that a killed writer may have left."""
    return re.fullmatch(r"\..+\.[0-9a-f]{8}\.tmp", path.name) is not None


def _open_temporary(path: Path) -> tuple[Path, BinaryIO]:
    """Open a new hidden file beside the target; its lock ends with this process."""
    while True:
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
        file = temporary.open("xb")
        if sys.platform != "win32":
            with contextlib.suppress(OSError):
                fcntl.flock(file, fcntl.LOCK_EX)
        # Another writer may have removed it as stale before it was locked.
        if temporary.exists():
            return temporary, file
        file.close()


def _remove_stale_temporaries(path: Path) -> None:
    """Remove temporary files of this target that no running writer has locked."""
    pattern = f".{glob.escape(path.name)}.{'[0-9a-f]' * 8}.tmp"
    for temporary in path.parent.glob(pattern):
        with contextlib.suppress(OSError), temporary.open("rb") as file:
            if sys.platform == "win32":
                file.close()
            else:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            temporary.unlink()
