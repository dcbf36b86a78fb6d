"""A guard's state on disk: checksummed JSON, replaced atomically."""

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from grpo_gym.deployment.config import GuardConfig
from grpo_gym.deployment.records import GuardError, describe
from grpo_gym.deployment.state_schema import GuardState
from grpo_gym.settings import check_value, to_mapping
from grpo_gym.storage.claims import Claim, InUseError, claim_file
from grpo_gym.storage.files import write_atomic

FORMAT_VERSION = 1
_KIND = "grpo-gym guard"
_FREE_SETTINGS = {"mode", "save_every", "policy_deadline_ms", "missed_deadline_limit"}
"""Settings that may differ from the saved ones."""

State = dict[str, Any]


class GuardStateError(GuardError):
    """A saved state that cannot be read or belongs to another config; the message has a remedy."""


class StateFile:
    """The file of a guard's state, which no other may have, and when it is due to be saved.

    Attributes:
        path: The file; None: nothing is saved.
        error: Why the last save failed; None if it succeeded.
    """

    def __init__(self, path: str | os.PathLike[str] | None, config: GuardConfig) -> None:
        """Claim the file, which need not exist; a state in it must have this config.

        Raises:
            GuardStateError: If another guard has it, or it cannot be written.
        """
        self.path = path
        self._claim = None if path is None else _claim(path)
        self.error: str | None = None
        self._config = to_mapping(config)
        self._every = config.save_every
        self._unsaved = 0

    def load(self, restore: Callable[[State], None]) -> None:
        """Pass a saved state to `restore`, if there is one.

        Raises:
            GuardStateError: If it cannot be read, has another config, or is not a guard's.
        """
        if self.path is None or (state := read_state(self.path)) is None:
            return
        try:
            saved = state["config"]
            for name in sorted({*saved, *self._config} - _FREE_SETTINGS):
                before, now = saved.get(name), self._config.get(name)
                if before != now:
                    _refuse(self.path, f"it was made with {name}={before}, the guard has {now}")
            restore(check_value("state", state, GuardState))
        except (AttributeError, LookupError, TypeError, ValueError) as error:
            _refuse(self.path, f"its content is not a guard's ({describe(error)})", error)

    @property
    def is_owned(self) -> bool:
        """Whether there is a file, and this guard has it: not once closed, and not in a fork."""
        return self._claim is not None and self._claim.is_held

    def close(self) -> None:
        """Let another guard have the file."""
        if self._claim is not None:
            self._claim.release()

    def save_soon(self) -> None:
        """Make the next `save_if_due` save."""
        self._unsaved = self._every

    def save_if_due(self, make_state: Callable[[], State]) -> None:
        """Save after every `save_every` calls; a failure is kept in `error` and does not raise."""
        self._unsaved += 1
        if self.path is None or self._unsaved < self._every:
            return
        if not self.is_owned:
            self.error = "the guard was closed, or is a copy in a fork of its process"
            return
        try:
            write_state(self.path, {**make_state(), "config": self._config})
        except OSError as error:
            self.error = describe(error)
        else:
            self.error = None
            self._unsaved = 0


def write_state(path: str | os.PathLike[str], state: State) -> None:
    """Write a state, whose dataclasses become mappings, atomically.

    Raises:
        OSError: If it cannot be written; the old file is then unchanged.
    """
    text = json.dumps(state, sort_keys=True, default=vars).encode()
    header = {"kind": _KIND, "version": FORMAT_VERSION, "sha256": hashlib.sha256(text).hexdigest()}
    # One JSON object, without serialising the state twice.
    start = json.dumps(header).removesuffix("}") + ', "state": '
    write_atomic(path, start.encode(), text, b"}\n")


def read_state(path: str | os.PathLike[str]) -> State | None:
    """Read a state that `write_state` wrote; None if there is no such file.

    Raises:
        GuardStateError: If the file is not a guard's, damaged, or of another version.
    """
    try:
        document = json.loads(Path(path).read_bytes())
    except FileNotFoundError:
        return None
    except OSError as error:
        _refuse(path, f"{error.strerror or error}: check the path and its permissions", error)
    except (ValueError, RecursionError) as error:
        _refuse(path, "it is damaged: not JSON", error)
    if not isinstance(document, dict) or document.get("kind") != _KIND:
        _refuse(path, "it is not the state of a guard")
    version = document.get("version")
    if version != FORMAT_VERSION:
        _refuse(path, f"its version must be {FORMAT_VERSION}, got {version!r}")
    state = document.get("state")
    text = json.dumps(state, sort_keys=True).encode()
    if not isinstance(state, dict) or document.get("sha256") != hashlib.sha256(text).hexdigest():
        _refuse(path, "it is damaged: its SHA-256 does not match")
    return state


def _claim(path: str | os.PathLike[str]) -> Claim:
    try:
        return claim_file(path)
    except InUseError as error:
        raise GuardStateError(f"{error}, close its guard, or choose another state_path") from None
    except OSError as error:
        reason = f"{error.strerror or error}: check the path and its permissions"
        raise GuardStateError(f"cannot save the state to {os.fspath(path)}: {reason}") from error


def _refuse(
    path: str | os.PathLike[str], reason: str, cause: BaseException | None = None
) -> NoReturn:
    raise GuardStateError(
        f"cannot go on from {os.fspath(path)}: {reason}. Put the right file in its place, or move "
        "it away to start anew in the configured mode"
    ) from cause
