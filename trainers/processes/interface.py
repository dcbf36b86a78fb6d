"""What training asks of the processes that share its work.

Work is cut into shards by the settings alone. Each process does some of them, one after the other,
and all processes get all results in the order of the shards: the bits of what is computed from them
do not depend on the number of processes.

Shapes: S shards, M of them this process's own.
"""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from grpo_gym.settings import ConfigError
from grpo_gym.trainers.config import GRPOConfig

if TYPE_CHECKING:  # the command line reads of processes before it loads torch
    from torch import Tensor

    from grpo_gym.rollouts.rollout import GroupedRollout


class Processes(Protocol):
    """The processes that train one policy, as one of them sees them.

    All of them call the same methods in the same order, but for `mine`.
    """

    @property
    def rank(self) -> int:
        """Number of this process; 0 is the one that reports and writes."""

    @property
    def size(self) -> int:
        """How many there are."""

    @property
    def reports(self) -> bool:
        """Whether this process is the one to report errors: 0, or another one if that is lost."""

    def together(self) -> AbstractContextManager[None]:
        """What all do together; may be nested.

        An error inside ends all of them. Nobody leaves before all have come to the end.

        Raises:
            ProcessError: If another process fails, is lost, or hangs.
        """

    def mine(self, shards: int) -> range:
        """The shards, out of S, that this process does; neighbours, and perhaps none."""

    def gather(self, parts: "Tensor", shards: int) -> "Tensor":
        """The results of all S shards, shape (S, ...), from each process's own, shape (M, ...)."""

    def gather_rollout(self, rollout: "GroupedRollout") -> "GroupedRollout":
        """All groups of the rollouts of all processes."""

    def agree(self, number: int) -> int:
        """The largest number that a process brings, each at least 0: one that stops stops all."""

    def share(self, message: Any) -> Any:
        """The message of process 0, for all; what others bring does not matter."""

    def check_same(self, tensors: "dict[str, Tensor]", when: str) -> None:
        """Check that all processes have the same tensors.

        Raises:
            ProcessError: If not, with `when` in its message.
        """


def deal(items: int, receivers: int, receiver: int) -> range:
    """The items of one receiver: neighbours, and as many as others get, or one more."""
    return range(items * receiver // receivers, items * (receiver + 1) // receivers)


def check_size(size: int, config: GRPOConfig) -> None:
    """Check that every process has something to do.

    Raises:
        ConfigError: If there are more processes than groups, or than shards.
    """
    for name in ("num_groups", "gradient_shards"):
        if getattr(config, name) < size:
            raise ConfigError(
                f"{name} must be >= the number of processes, {size}, got {getattr(config, name)}: "
                f"use fewer processes, or train with another {name}"
            )


@dataclass(frozen=True)
class _Alone:
    """One process that does everything."""

    rank: int = 0
    size: int = 1
    reports: bool = True

    def together(self) -> AbstractContextManager[None]:
        return nullcontext()

    def mine(self, shards: int) -> range:
        return range(shards)

    def gather(self, parts: "Tensor", shards: int) -> "Tensor":
        return parts

    def gather_rollout(self, rollout: "GroupedRollout") -> "GroupedRollout":
        return rollout

    def agree(self, number: int) -> int:
        return number

    def share(self, message: Any) -> Any:
        return message

    def check_same(self, tensors: "dict[str, Tensor]", when: str) -> None:
        pass


ALONE: Processes = _Alone()
"""Training in a single process."""
