"""The file with what the policy "online" has learnt: read when it begins, written now and then."""

import logging
import os
from pathlib import Path

from grpo_gym.deployment.routing.config import RoutingConfig
from grpo_gym.deployment.routing.learning import OnlineRanker
from grpo_gym.deployment.routing.policies import ONLINE, make_ranker
from grpo_gym.deployment.routing.rankers import Ranker
from grpo_gym.deployment.routing.records import Endpoint
from grpo_gym.storage import CheckpointError

_SAVE_S = 60.0
"""Time between saves."""

_log = logging.getLogger(__name__)


class OnlineFile:
    """Beside the guard's state, with the suffix ".online"; of other policies nothing is kept.

    Attributes:
        path: The file; None: nothing is kept.
    """

    def __init__(self, state_path: str | os.PathLike[str] | None, now_s: float) -> None:
        """Nothing is read yet.

        Args:
            state_path: The guard's file, if any.
            now_s: Time in seconds that never goes back.
        """
        self.path = None if state_path is None else Path(f"{os.fspath(state_path)}.online")
        self._due_s = now_s + _SAVE_S

    def make_ranker(
        self, policy: str | Ranker, endpoints: tuple[Endpoint, ...], config: RoutingConfig
    ) -> Ranker:
        """The policy of a name, with what it has learnt.

        Raises:
            ConfigError: If there is no such policy, or it does not fit.
            CheckpointError: If a file cannot be used.
        """
        if not isinstance(policy, str):
            return policy
        ranker = make_ranker(policy, endpoints, config)
        if policy == ONLINE and self.path is not None and self.path.exists():
            assert isinstance(ranker, OnlineRanker)
            ranker.load(self.path)
        return ranker

    def save(self, ranker: Ranker) -> None:
        """Write what a policy has learnt, if it learns.

        Raises:
            CheckpointError: If the file cannot be written.
        """
        if isinstance(ranker, OnlineRanker) and self.path is not None:
            ranker.save(self.path)

    def save_if_due(self, ranker: Ranker, now_s: float) -> None:
        """The same after a while; a full disk is only warned of, and stops no request."""
        if now_s < self._due_s:
            return
        self._due_s = now_s + _SAVE_S
        try:
            self.save(ranker)
        except CheckpointError as error:
            _log.warning("%s", error)
