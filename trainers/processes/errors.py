"""What one process learns of the fault of another."""

import pickle
import traceback
from base64 import b64decode, b64encode
from dataclasses import dataclass

from grpo_gym.rollouts.env_batch import EnvError
from grpo_gym.settings import ConfigError
from grpo_gym.storage import CheckpointError

_TOLD = (ConfigError, EnvError, CheckpointError, FloatingPointError, OSError, MemoryError)
"""Errors whose message is all there is to say; of others the place matters too."""


class ProcessError(RuntimeError):
    """Another process failed, was lost, hangs, or has another result."""


@dataclass(frozen=True)
class LastWords:
    """Why a process leaves the others.

    Attributes:
        error: What it raised; None if it only follows another one.
    """

    error: BaseException | None

    @classmethod
    def about(cls, error: BaseException, rank: int) -> "LastWords":
        """What to tell the others about an error of this process."""
        if isinstance(error, ProcessError):
            return cls(None)
        if isinstance(error, _TOLD):
            return cls(error)
        if isinstance(error, KeyboardInterrupt):
            return cls(ProcessError(f"process {rank} was stopped"))
        frames = traceback.extract_tb(error.__traceback__)
        place = f" in {frames[-1].filename}, line {frames[-1].lineno}" if frames else ""
        return cls(ProcessError(f"process {rank}: {error!r}{place}"))

    def to_text(self) -> str:
        """As it is sent; an error that cannot be becomes a `ProcessError` with its text."""
        try:
            written = pickle.dumps(self.error)
            pickle.loads(written)  # an error of a user's own class may be written and not be read
        except Exception:  # users' errors may hold anything
            written = pickle.dumps(ProcessError(str(self.error)))
        return b64encode(written).decode()

    @classmethod
    def from_text(cls, text: bytes) -> "LastWords":
        """Read what another process of the same training sent."""
        return cls(pickle.loads(b64decode(text)))
