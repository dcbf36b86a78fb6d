"""The players that a policy has to beat, from shooting at random to the exact posterior.

They see what a player sees. `exact_posterior` and `monte_carlo_posterior` shoot where a ship is
most likely, which is nearly but not always the best (Audinot, Bonnet and Viennot, 2014).

Shapes: B games, A cells, S ships, M boards.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from grpo_gym.envs.baseline import Baseline
from grpo_gym.envs.battleship.placements import with_neighbours
from grpo_gym.envs.battleship.posterior import Posterior
from grpo_gym.envs.battleship.records import HIT, SUNK
from grpo_gym.envs.battleship.sampling import sample_posterior
from grpo_gym.envs.battleship.simulator import BattleshipSimulator
from grpo_gym.settings import ConfigError, suggest

State = tuple[np.ndarray, ...]

_SMALL_BOARD = 36
"""Cells of a board that sampling is fast on."""


class Player(Baseline):
    """A way to choose the next shot."""

    simulator_class = BattleshipSimulator

    def choose(self, state: State) -> tuple[np.ndarray, State]:
        """See `Baseline.choose`; by default an unknown cell of highest `values`."""
        return self._best(self.values()), state

    def values(self) -> np.ndarray:
        """What a shot at each cell is thought to be worth, shape (B, A), none negative."""
        raise NotImplementedError

    def _best(self, values: np.ndarray) -> np.ndarray:
        """An unknown cell of highest value, ties broken at random, shape (B,)."""
        values = np.where(self.simulator.unknown(), values, -1.0)
        tied = values == values.max(axis=1, keepdims=True)
        return np.where(tied, self._noise(values.shape[1]), 0.0).argmax(axis=1)


class Random(Player):
    """Any cell that was not shot at."""

    name = "random"

    def values(self) -> np.ndarray:
        """See `Player.values`."""
        return np.zeros(self.simulator.seen.shape)


class HuntTarget(Player):
    """Shoots at random until it hits; then at the neighbours of hits, the latest first."""

    name = "hunt_target"
    parity = False

    def __init__(self, env: Any, seed: int = 0) -> None:
        """Bind to an environment; see `Baseline`."""
        super().__init__(env, seed)
        rows, columns = self.simulator.config.board_size
        row, column = np.divmod(np.arange(rows * columns), columns)
        self._even = (row + column) % 2 == 0
        steps = ((-1, 0), (1, 0), (0, -1), (0, 1))
        self._beside = [_beside(rows, columns, down, right) for down, right in steps]

    def initial_state(self) -> State:
        """When each cell became a target (0: it is none), and hits that were seen to."""
        shape = self.simulator.seen.shape
        return np.zeros(shape, np.int64), np.zeros(shape, np.bool_)

    def choose(self, state: State) -> tuple[np.ndarray, State]:
        """See `Baseline.choose`."""
        targets, seen_to = self._targets(*state)
        open_targets = np.where(self._worth_a_shot(), targets, 0)
        hunting = open_targets.max(axis=1) == 0
        actions = np.where(hunting, self._best(self._hunt()), open_targets.argmax(axis=1))
        return actions, (targets, seen_to)

    def _targets(self, targets: np.ndarray, seen_to: np.ndarray) -> State:
        """Neighbours of new hits become the latest targets."""
        hits = self._hits()
        fresh = hits & ~seen_to
        for number, beside in enumerate(self._beside):
            near = np.zeros_like(fresh)
            near[:, beside[1]] = fresh[:, beside[0]]
            stamp = 4 * self.simulator.elapsed()[:, None] + number + 1
            targets = np.where(near, stamp, targets)
        return targets, seen_to | hits

    def _hits(self) -> np.ndarray:
        return np.isin(self.simulator.seen, (HIT, SUNK))

    def _worth_a_shot(self) -> np.ndarray:
        mask: np.ndarray = self.simulator.unknown()
        return mask

    def _hunt(self) -> np.ndarray:
        """1 for cells to hunt in, shape (B, A)."""
        worth = self._worth_a_shot()
        return worth + (1.0 * (worth & self._even) if self.parity else 0.0)


class Parity(HuntTarget):
    """`hunt_target` that hunts on one colour of the chess board: no ship of two fits between."""

    name = "parity"
    parity = True


class HuntTargetSunk(Parity):
    """`parity` that leaves a ship alone when it is announced to be sunk.

    And what is beside it, where ships may not touch.
    """

    name = "hunt_target_sunk"

    def _worth_a_shot(self) -> np.ndarray:
        worth = super()._worth_a_shot()
        if self.simulator.config.allow_touch:
            return worth
        rows, columns = self.simulator.config.board_size
        sunk = (self.simulator.seen == SUNK).reshape(-1, rows, columns)
        return worth & ~with_neighbours(sunk).reshape(worth.shape)

    def _targets(self, targets: np.ndarray, seen_to: np.ndarray) -> State:
        targets, seen_to = super()._targets(targets, seen_to)
        sunk = self.simulator.episodes["sunk_length"] > 0
        return np.where(sunk[:, None] & ~self._near_open_hits(), 0, targets), seen_to

    def _near_open_hits(self) -> np.ndarray:
        hits = self.simulator.seen == HIT
        near = np.zeros_like(hits)
        for beside in self._beside:
            near[:, beside[1]] |= hits[:, beside[0]]
        return near


class ProbabilityDensity(Player):
    """The cell that most placements of ships afloat cover; those with hits count 100 times each."""

    name = "probability_density"

    def values(self) -> np.ndarray:
        """See `Player.values`."""
        counts, _, hit_weights = self.simulator.densities()
        has_hits = (hit_weights > 0.0).any(axis=1, keepdims=True)
        return np.where(has_hits, hit_weights, counts)


class ExactPosterior(Player):
    """The first of the cells that most fitting boards cover; where boards can be listed."""

    name = "exact_posterior"
    deterministic = True

    @classmethod
    def is_for_tables(cls, simulator: Any) -> bool:
        """Where boards can be listed."""
        can_list: bool = simulator.can_list_layouts
        return can_list

    def __init__(self, env: Any, seed: int = 0) -> None:
        """Bind to an environment.

        Raises:
            ConfigError: If its boards are too many to list.
        """
        super().__init__(env, seed)
        self._posterior = Posterior(self.simulator)

    def choose(self, state: State) -> tuple[np.ndarray, State]:
        """See `Baseline.choose`."""
        shares = np.where(self.simulator.unknown(), self._posterior.shares(), -1.0)
        return shares.argmax(axis=1), state


class MonteCarloPosterior(Player):
    """The cell that most of some sampled boards which fit cover; density where none was found."""

    name = "monte_carlo_posterior"

    @classmethod
    def is_for_tables(cls, simulator: Any) -> bool:
        """On small boards; on one of 10 x 10 a game takes seconds."""
        return int(simulator.config.cells) <= _SMALL_BOARD

    def values(self) -> np.ndarray:
        """See `Player.values`."""
        counts, _, hit_weights = self.simulator.densities()
        has_hits = (hit_weights > 0.0).any(axis=1, keepdims=True)
        density = np.where(has_hits, hit_weights, counts)
        sampled = sample_posterior(self.simulator, self._salt)
        found = (sampled > 0.0).any(axis=1, keepdims=True)
        return np.where(found, sampled, density)


BASELINES: dict[str, Callable[..., Player]] = {
    player.name: player
    for player in (
        Random,
        HuntTarget,
        Parity,
        HuntTargetSunk,
        ProbabilityDensity,
        MonteCarloPosterior,
        ExactPosterior,
    )
}


def make_baseline(name: str, env: Any, seed: int = 0) -> Player:
    """A baseline by its name, bound to an environment.

    Raises:
        ConfigError: If there is none of that name, or not for this environment.
    """
    if name not in BASELINES:
        raise ConfigError(f"there is no baseline {name!r}.{suggest(str(name), BASELINES)}")
    return BASELINES[name](env, seed)


def _beside(rows: int, columns: int, down: int, right: int) -> tuple[np.ndarray, np.ndarray]:
    """Cells that have a neighbour in a direction, and those neighbours."""
    row, column = np.divmod(np.arange(rows * columns), columns)
    inside = (row + down >= 0) & (row + down < rows)
    inside &= (column + right >= 0) & (column + right < columns)
    cells = np.flatnonzero(inside)
    return cells, cells + down * columns + right
