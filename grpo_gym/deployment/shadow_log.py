"""A log of what was done and what came of it, from which other policies can be estimated.

One JSON object a line:

    {"action": 2, "propensity": 0.025, "reward": -31.4, "policy": 0, "observation": [0.1, 0.7]}

`propensity` is the probability with which the controller that acted chose this action: without
randomised choices it is 1, and nothing can be learnt about other actions. `policy` is what the
policy would have done: an action, or a probability for each. It and `observation` may be absent.
Where not every action could be chosen, `allowed` lists those that could.
"""

import json
import math
import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NotRequired

import numpy as np
from pydantic import AfterValidator, ConfigDict, Field, TypeAdapter, ValidationError
from typing_extensions import TypedDict  # pydantic needs this one before Python 3.12

from grpo_gym.deployment.records import describe
from grpo_gym.settings import ConfigError, Count, Fraction, check_value

MAXIMUM_BYTES = 64 * 2**20
"""Default size of a file, about a million rows without observations."""
_MOST_ACTIONS = 100_000


_Action = Annotated[int, Field(ge=0, lt=_MOST_ACTIONS, strict=True)]


def _sums_to_one(probabilities: list[float]) -> list[float]:
    if abs(math.fsum(probabilities) - 1.0) > 1e-3:
        raise ValueError(f"probabilities must have the sum 1, got {math.fsum(probabilities):g}")
    return probabilities


class _Row(TypedDict):
    __pydantic_config__ = ConfigDict(extra="forbid", allow_inf_nan=False)  # type: ignore[misc]
    action: _Action
    propensity: Annotated[float, Field(gt=0, le=1)]
    reward: float
    policy: NotRequired[_Action | Annotated[list[Fraction], AfterValidator(_sums_to_one)] | None]
    observation: NotRequired[list[float] | None]
    allowed: NotRequired[Annotated[list[_Action], Field(min_length=1)] | None]


_ROW = TypeAdapter(_Row)


class ShadowLog:
    """Appends rows to a file, and keeps the last few files. Thread-safe.

    A row that cannot be written is dropped and counted: traffic must go on.

    Attributes:
        path: The newest file; older ones have the suffixes .1, .2, ...
        rows: Rows written.
        dropped: Rows that could not be written.
        error: Why the last one could not; None if it could.
    """

    def __init__(
        self, path: str | os.PathLike[str], maximum_bytes: int = MAXIMUM_BYTES, files: int = 4
    ) -> None:
        """Open a file, whose rows so far stay.

        Args:
            path: The file.
            maximum_bytes: Size at which a new file begins.
            files: How many files to keep, the newest included.

        Raises:
            ConfigError: If a number is not at least 1.
            OSError: If the file cannot be written.
        """
        self.path = Path(path)
        self._maximum_bytes = check_value("maximum_bytes", maximum_bytes, Count)
        self._files = check_value("files", files, Count)
        self.rows = self.dropped = 0
        self.error: str | None = None
        self._lock = threading.Lock()
        self._open()

    def write(
        self,
        action: int | np.integer[Any],
        propensity: float | np.floating[Any],
        reward: float | np.floating[Any],
        policy: int | Sequence[float] | None = None,
        observation: Sequence[float] | np.ndarray | None = None,
        allowed: Sequence[int] | None = None,
    ) -> None:
        """Append a row; see the module for what its values mean.

        Rows reach the disk in portions; `close` writes the rest.
        """
        row: dict[str, Any] = {"action": action, "propensity": propensity, "reward": reward}
        if policy is not None:
            row["policy"] = policy
        if observation is not None:
            row["observation"] = observation
        if allowed is not None:
            row["allowed"] = allowed
        line = json.dumps(row, default=_as_list).encode() + b"\n"
        with self._lock:
            try:
                if self._size + len(line) > self._maximum_bytes and self._size > 0:
                    self._rotate()
                self._file.write(line)
            # A file that is closed raises ValueError, a disk that is full OSError.
            except (OSError, ValueError) as error:
                self.dropped += 1
                self.error = describe(error)
            else:
                self._size += len(line)
                self.rows += 1
                self.error = None

    def close(self) -> None:
        """Write what is left."""
        with self._lock:
            self._file.close()

    def __enter__(self) -> "ShadowLog":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _open(self) -> None:
        self._file = self.path.open("a+b")
        self._size = self._file.seek(0, os.SEEK_END)
        if self._size:
            self._file.seek(-1, os.SEEK_END)
            if self._file.read(1) != b"\n":  # a process was killed within a line
                self._size += self._file.write(b"\n")

    def _rotate(self) -> None:
        """Rename each file to the next older one, and begin a new one; the oldest is replaced."""
        self._file.close()
        older = [_numbered(self.path, number) for number in range(1, self._files)]
        for newer, file in reversed([*zip([self.path, *older], older, strict=False)]):
            if newer.exists():
                newer.replace(file)
        if not older:
            self.path.unlink()
        self._open()


def _numbered(path: Path, number: int) -> Path:
    return path.with_name(f"{path.name}.{number}")


def _older(path: Path) -> list[Path]:
    """The older files of a log, newest first."""
    older: list[Path] = []
    while (file := _numbered(path, len(older) + 1)).exists():
        older.append(file)
    return older


def _as_list(value: Any) -> Any:
    """Arrays and their scalars in JSON types."""
    return value.tolist()


@dataclass(frozen=True)
class LoggedRows:
    """The rows of a log.

    Shapes: n rows, A actions, D features.
    """

    actions: np.ndarray
    """Actions taken, (n,), int64."""
    propensities: np.ndarray
    """Their probabilities, (n,), float64."""
    rewards: np.ndarray
    """What came of them, (n,), float64; higher is better."""
    policy: np.ndarray | None = None
    """The policy's probabilities of all actions, (n, A); None if rows lack them."""
    observations: np.ndarray | None = None
    """(n, D), float64; None if rows lack them or differ in length."""
    allowed: Sequence[Sequence[int] | None] | None = None
    """Actions that could be chosen, for each row; None: all."""
    damaged: int = 0
    """Lines that were not JSON, as a process leaves them that is killed."""

    def __len__(self) -> int:
        return len(self.actions)


def read_log(path: str | os.PathLike[str]) -> LoggedRows:
    """Read a log that `ShadowLog` wrote, its older files first.

    Raises:
        ConfigError: If a row does not have the form of the module's description, or there is none.
        OSError: If the file cannot be read.
    """
    path = Path(path)
    rows: list[_Row] = []
    damaged = 0
    for file in [*reversed(_older(path)), path]:
        with file.open("rb") as lines:
            for number, line in enumerate(lines, 1):
                try:
                    rows.append(_ROW.validate_json(line))
                except ValidationError as error:
                    last = error.errors()[-1]  # of several the one of the more general form
                    if last["type"] != "json_invalid":
                        name = str(last["loc"][0]) if last["loc"] else "the row"
                        raise ConfigError(
                            f"{file}, line {number}: {name} cannot be used: {last['msg']}"
                        ) from None
                    damaged += bool(line.strip())
    if not rows:
        raise ConfigError(f"{path} must have rows, got {damaged} lines that are not JSON")
    return LoggedRows(
        np.array([row["action"] for row in rows], np.int64),
        np.array([row["propensity"] for row in rows]),
        np.array([row["reward"] for row in rows]),
        _probabilities(rows),
        _observations(rows),
        [row.get("allowed") for row in rows],
        damaged,
    )


def _observations(rows: "list[_Row]") -> np.ndarray | None:
    observations = [row.get("observation") for row in rows]
    lengths = {-1 if each is None else len(each) for each in observations}
    return np.array(observations, np.float64) if len(lengths) == 1 and min(lengths) > 0 else None


def _probabilities(rows: "list[_Row]") -> np.ndarray | None:
    """Probabilities by the policy; where a row has fewer actions than others, the rest have 0."""
    wanted = [row.get("policy") for row in rows]
    if any(each is None for each in wanted):
        return None
    sizes = [each + 1 if isinstance(each, int) else len(each or ()) for each in wanted]
    actions = max(*sizes, *(row["action"] + 1 for row in rows))
    table = np.zeros((len(rows), actions))
    for probabilities, each in zip(table, wanted, strict=True):
        if isinstance(each, int):
            probabilities[each] = 1.0
        elif each is not None:
            probabilities[: len(each)] = each
    return table


def explore(
    choice: int, allowed: Sequence[int], epsilon: float, generator: np.random.Generator
) -> tuple[int, float]:
    """With probability epsilon any of the allowed actions, else `choice`, which is one of them.

    Returns:
        The action, and its propensity for the log.
    """
    action = choice
    if generator.random() < epsilon:
        action = allowed[int(generator.integers(len(allowed)))]
    return action, epsilon / len(allowed) + (1.0 - epsilon) * (action == choice)
