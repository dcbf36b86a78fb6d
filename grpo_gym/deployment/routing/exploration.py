"""Random picks in shadow, and a log of them, from which `grpo-gym guard estimate` judges a policy.

Actions are the places of endpoints at the time of the pick.
"""

import logging
import threading
from collections.abc import Sequence
from pathlib import Path
from queue import SimpleQueue
from typing import NamedTuple

import numpy as np

from grpo_gym.deployment.records import Decision
from grpo_gym.deployment.routing.config import RoutingConfig
from grpo_gym.deployment.routing.records import ChoiceLogStatus
from grpo_gym.deployment.routing.roster import Member
from grpo_gym.deployment.shadow_log import ShadowLog, explore
from grpo_gym.settings import ConfigError
from grpo_gym.storage.claims import Claim, InUseError, claim_file

_MOST_WAITING = 10_000
"""Rows that wait for the disk; further ones are dropped."""
_PATIENCE_S = 5.0
"""How long an end waits for the disk."""

_log = logging.getLogger(__name__)


class LoggedChoice(NamedTuple):
    """A row of the log without its reward, which is not known yet; see `shadow_log`.

    Attributes:
        action: The place of the endpoint that gets the request.
        propensity: The probability of that.
        policy: The place of the endpoint that the policy would have chosen behind the guard.
        observation: What it saw, shape (D,).
        allowed: Places that could be chosen; None: all.
        is_fallbacks: Whether the fallback would have chosen the same.
    """

    action: int
    propensity: float
    policy: int
    observation: np.ndarray
    allowed: Sequence[int] | None
    is_fallbacks: bool


class Explorer:
    """Sends a share of the requests to random endpoints, and logs all choices.

    One caller at a time. A thread of its own writes the log, so that no request waits for a disk.
    """

    def __init__(self, path: Path, share: float, seed: int) -> None:
        """Open the log, whose rows so far stay.

        Args:
            path: The file.
            share: Probability of a random pick.
            seed: Of the random picks.

        Raises:
            ConfigError: If the file cannot be written, or another process writes it.
        """
        self._claim, self._log = _open(path)
        self._share = share
        self._generator = np.random.default_rng(seed)
        self._waiting: SimpleQueue[tuple[LoggedChoice, float] | None] = SimpleQueue()
        self._dropped = 0
        self._thread = threading.Thread(target=self._write, name="choice log", daemon=True)
        self._thread.start()

    def draw(
        self,
        order: list[Member],
        candidates: Sequence[Member],
        count: int,
        decision: Decision,
        observation: np.ndarray,
    ) -> tuple[list[Member], LoggedChoice]:
        """Now and then begin the fallback's order with a random candidate.

        Args:
            order: The fallback's order, best first.
            candidates: Endpoints that the policy may choose, the first of `order` among them.
            count: Endpoints, with those that may not be chosen.
            decision: The guard's.
            observation: What the policy saw.

        Returns:
            The order to use, and its row for `write`.
        """
        places = [member.place for member in candidates]
        first = order[0]
        action, propensity = explore(first.place, places, self._share, self._generator)
        if action != first.place:
            drawn = next(member for member in candidates if member.place == action)
            order = [drawn, *[member for member in order if member is not drawn]]
        # An action that the guard refuses would not be executed.
        policy = decision.fallback_action if decision.violations else decision.policy_action
        allowed = None if len(places) == count else places
        row = LoggedChoice(action, propensity, policy, observation, allowed, action == first.place)
        return order, row

    def write(self, row: LoggedChoice, reward: float) -> None:
        """Log a choice, whose reward is known now; at once, and never an error."""
        if self._waiting.qsize() < _MOST_WAITING:
            self._waiting.put((row, reward))
        else:
            self._dropped += 1

    def status(self) -> ChoiceLogStatus:
        """The log in figures."""
        log = self._log
        return ChoiceLogStatus(str(log.path), log.rows, log.dropped + self._dropped, log.error)

    def close(self) -> None:
        """Write what is left, unless the disk hangs, and let others have the file. Idempotent."""
        self._waiting.put(None)
        self._thread.join(_PATIENCE_S)

    def _write(self) -> None:
        """Runs in the thread."""
        with self._claim:
            while (waiting := self._waiting.get()) is not None:
                row, reward = waiting
                self._log.write(
                    row.action, row.propensity, reward, row.policy, row.observation, row.allowed
                )
            try:
                self._log.close()
            except OSError as error:  # a full disk
                _log.warning("the last rows of %s are lost: %s", self._log.path, error)


def _open(path: Path) -> tuple[Claim, ShadowLog]:
    try:
        claim = claim_file(path)
        try:
            return claim, ShadowLog(path)
        except BaseException:
            claim.release()
            raise
    except InUseError as error:
        raise ConfigError(f"choice_log cannot be used: {error}") from None
    except OSError as error:
        raise ConfigError(
            f"choice_log must be a file that can be written, got {path}: {error.strerror or error}"
        ) from error


def explorer_of(config: RoutingConfig) -> Explorer | None:
    """The explorer that the settings want; None if none.

    Raises:
        ConfigError: As `Explorer` does.
    """
    if config.choice_log is None:
        return None
    return Explorer(config.choice_log, config.exploration, config.guard.seed)
