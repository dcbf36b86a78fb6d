"""Claims on files and folders: of all processes that would write one, only one at a time may.

A claim is a lock of the operating system on a small hidden file, which says who has it. It ends
with its process, also after a kill -9; the hidden file may then stay, and means nothing.
"""

import os
import platform
from contextlib import AbstractContextManager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from grpo_gym.storage.files import make_folder_of

LOCK_NAME = ".lock"
"""Name of the hidden file in a claimed folder."""
_PATIENCE_SECONDS = 0.2
"""Others may hold the lock for a moment: to find that they may not have it, or to let it go."""


class InUseError(OSError):
    """A file or folder that somebody else has claimed; the message says who."""


class Claim(AbstractContextManager["Claim"]):
    """The exclusive use of a file or folder, until it is released or this process ends."""

    def __init__(self, path: str | os.PathLike[str], lock_path: Path) -> None:
        """Use `claim_file` or `claim_folder`."""
        self._lock_path = lock_path
        self._lock = FileLock(lock_path, timeout=_PATIENCE_SECONDS, thread_local=False)
        try:
            self._lock.acquire()
        except Timeout:
            if not lock_path.exists():
                raise OSError(f"{path} cannot be written: its folder takes no files") from None
            raise InUseError(
                f"{path} is in use by {_owner(lock_path)}: wait until it ends"
            ) from None
        except OSError as error:  # name the file that the user knows
            raise OSError(error.errno, error.strerror, os.fspath(path)) from error
        with suppress(OSError):  # on a full disk the claim holds all the same
            lock_path.write_text(f"{os.getpid()} on {platform.node()}")

    @property
    def is_held(self) -> bool:
        """Whether this process has it: not after a release, and not in a fork of its owner."""
        return self._lock.is_locked

    def release(self) -> None:
        """Let others have it."""
        if self.is_held:
            # Still locked: whoever waits for this very file then notices that it is gone.
            with suppress(OSError):
                self._lock_path.unlink()
            self._lock.release()

    def __exit__(self, *_: object) -> None:
        self.release()


def claim_file(path: str | os.PathLike[str]) -> Claim:
    """Claim a file, which need not exist; its folder is made.

    Raises:
        InUseError: If it is claimed already.
        OSError: If it cannot be written.
    """
    target = Path(os.path.realpath(path))
    make_folder_of(target)
    return Claim(path, target.with_name(f".{target.name}{LOCK_NAME}"))


def claim_folder(path: str | os.PathLike[str]) -> Claim:
    """Claim a folder, which must exist.

    Raises:
        InUseError: If it is claimed already.
        OSError: If nothing can be written in it.
    """
    return Claim(path, Path(path) / LOCK_NAME)


def _owner(lock_path: Path) -> str:
    """Who has a lock, in words."""
    try:
        process, _, machine = lock_path.read_text().partition(" on ")
    except OSError:  # Windows lets nobody read a locked file
        process = ""
    if not process:
        return "another process"
    if machine != platform.node():
        return f"process {process} on {machine}"
    return "this process" if process == str(os.getpid()) else f"process {process}"
