"""Ways to play that a policy has to beat, from random shots to the exact posterior.

They know what the player knows. `exact_posterior` and `monte_carlo_posterior` shoot where a ship
is most likely, which is nearly optimal, but not always (Audinot, Bonnet and Viennot, 2014).

Shapes: B games, A cells.
"""

from typing import Any

import numpy as np
from typing_extensions import override

from grpo_gym.envs.baseline import Baseline, baseline_maker
from grpo_gym.envs.battleship.placements import with_neighbours
from grpo_gym.envs.battleship.posterior import Posterior
from grpo_gym.envs.battleship.records import HIT, SUNK
from grpo_gym.envs.battleship.sampling import sample_posterior
from grpo_gym.envs.battleship.simulator import BattleshipSimulator

State = tuple[np.ndarray, ...]

_SMALL_BOARD = 36
"""The largest number of cells on which sampling is fast enough for tables."""


class Player(Baseline):
    """A way to choose the next shot; by default an unknown cell of highest `values`."""

    simulator_class = BattleshipSimulator

    @override
    def choose(self, state: State) -> tuple[np.ndarray, State]:
        return self._best(self.values()), state

    def values(self) -> np.ndarray:
        """Rate a shot at each cell, shape (B, A), never below 0."""
        raise NotImplementedError

    def _best(self, values: np.ndarray) -> np.ndarray:
        """An unknown cell of highest value, ties broken at random, shape (B,)."""
        values = np.where(self.simulator.unknown(), values, -1.0)
        tied = values == values.max(axis=1, keepdims=True)
        return np.where(tied, self._noise(values.shape[1]), 0.0).argmax(axis=1)


class Random(Player):
    """Any unknown cell."""

    name = "random"

    @override
    def values(self) -> np.ndarray:
        return np.zeros(self.simulator.seen.shape)


class HuntTarget(Player):
    """Hunts at random until it hits, then targets the neighbours of hits, the latest hit first."""

    name = "hunt_target"
    parity = False

    def __init__(self, env: Any, seed: int = 0, **settings: Any) -> None:
        """Bind to an environment; see `Baseline`."""
        super().__init__(env, seed, **settings)
        rows, columns = self.simulator.config.board_size
        cells = np.arange(rows * columns)
        self._even = (cells // columns + cells % columns) % 2 == 0
        board = cells.reshape(rows, columns)
        ways = [
            (board[1:], board[:-1]),
            (board[:-1], board[1:]),
            (board[:, 1:], board[:, :-1]),
            (board[:, :-1], board[:, 1:]),
        ]
        self._beside = [(cells.ravel(), neighbours.ravel()) for cells, neighbours in ways]
        """Per direction (up, down, left, right): cells with a neighbour there, and it."""

    @override
    def initial_state(self) -> State:
        """When each cell became a target (0: it is none), and hits already followed up."""
        shape = self.simulator.seen.shape
        return np.zeros(shape, np.int64), np.zeros(shape, np.bool_)

    @override
    def choose(self, state: State) -> tuple[np.ndarray, State]:
        targets, followed_up = self._targets(*state)
        worth = self._worth_a_shot()
        open_targets = np.where(worth, targets, 0)
        hunting = open_targets.max(axis=1) == 0
        hunt = worth + (1.0 * (worth & self._even) if self.parity else 0.0)
        actions = np.where(hunting, self._best(hunt), open_targets.argmax(axis=1))
        return actions, (targets, followed_up)

    def _targets(self, targets: np.ndarray, followed_up: np.ndarray) -> State:
        """Make the neighbours of new hits the latest targets."""
        hits = np.isin(self.simulator.seen, (HIT, SUNK))
        new = hits & ~followed_up
        for number, (cells, neighbours) in enumerate(self._beside):
            near = np.zeros_like(new)
            near[:, neighbours] = new[:, cells]
            stamp = 4 * self.simulator.elapsed()[:, None] + number + 1
            targets = np.where(near, stamp, targets)
        return targets, followed_up | hits

    def _worth_a_shot(self) -> np.ndarray:
        mask: np.ndarray = self.simulator.unknown()
        return mask


class Parity(HuntTarget):
    """`hunt_target` that hunts on the cells of one colour of a chessboard.

    No ship of two cells or more fits between them.
    """

    name = "parity"
    parity = True


class HuntTargetSunk(Parity):
    """`parity` that leaves a ship alone once it is announced sunk, and its surroundings if empty.

    The surroundings are known to be empty where ships may not touch.
    """

    name = "hunt_target_sunk"

    @override
    def _worth_a_shot(self) -> np.ndarray:
        worth = super()._worth_a_shot()
        if self.simulator.config.allow_touch:
            return worth
        sunk = (self.simulator.seen == SUNK).reshape(-1, *self.simulator.config.board_size)
        return worth & ~with_neighbours(sunk).reshape(worth.shape)

    @override
    def _targets(self, targets: np.ndarray, followed_up: np.ndarray) -> State:
        targets, followed_up = super()._targets(targets, followed_up)
        hits = self.simulator.seen == HIT
        near_hits = np.zeros_like(hits)
        for cells, neighbours in self._beside:
            near_hits[:, neighbours] |= hits[:, cells]
        sunk = self.simulator.episodes["sunk_length"] > 0
        return np.where(sunk[:, None] & ~near_hits, 0, targets), followed_up


class ProbabilityDensity(Player):
    """The cell that most placements of ships afloat cover, weighted by the open hits they cover.

    Source: Berry, Battleship (datagenetics.com, December 2011).
    """

    name = "probability_density"

    @override
    def values(self) -> np.ndarray:
        counts, _, hit_weights = self.simulator.densities()
        has_hits = (hit_weights > 0.0).any(axis=1, keepdims=True)
        return np.where(has_hits, hit_weights, counts)


class ExactPosterior(Player):
    """The first of the cells that most fitting boards cover, if all boards can be listed."""

    name = "exact_posterior"
    deterministic = True

    @override
    @classmethod
    def is_for_tables(cls, simulator: Any) -> bool:
        can_list: bool = simulator.can_list_layouts
        return can_list

    def __init__(self, env: Any, seed: int = 0, **settings: Any) -> None:
        """Bind to an environment.

        Raises:
            ConfigError: If it has too many boards to list.
        """
        super().__init__(env, seed, **settings)
        self._posterior = Posterior(self.simulator)

    @override
    def choose(self, state: State) -> tuple[np.ndarray, State]:
        shares = np.where(self.simulator.unknown(), self._posterior.shares(), -1.0)
        return shares.argmax(axis=1), state


class MonteCarloPosterior(ProbabilityDensity):
    """The cell that most of the sampled boards cover; `probability_density` if none was found."""

    name = "monte_carlo_posterior"

    @override
    @classmethod
    def is_for_tables(cls, simulator: Any) -> bool:
        return int(simulator.config.cells) <= _SMALL_BOARD

    @override
    def values(self) -> np.ndarray:
        sampled = sample_posterior(self.simulator, self._salt)
        found = (sampled > 0.0).any(axis=1, keepdims=True)
        return np.where(found, sampled, super().values())


_PLAYERS: tuple[type[Player], ...] = (
    Random,
    HuntTarget,
    Parity,
    HuntTargetSunk,
    ProbabilityDensity,
    MonteCarloPosterior,
    ExactPosterior,
)
BASELINES: dict[str, type[Player]] = {player.name: player for player in _PLAYERS}
make_baseline = baseline_maker(BASELINES)
