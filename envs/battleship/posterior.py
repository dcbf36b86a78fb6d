"""Where ships are, given what the player knows: exactly, over all boards.

A board fits if the ships that sank lie where they sank, if the ships cover every open hit and no
miss, and if sinking is announced, no other ship has all of its cells hit.

Shapes: B games, A cells, S ships, W words of 64 cells, M listed boards.
"""

import numpy as np

from grpo_gym.envs.battleship.density import all_hit, sort_cells
from grpo_gym.envs.battleship.placements import Placements
from grpo_gym.envs.battleship.records import HIT, MISS, SUNK
from grpo_gym.envs.battleship.simulator import BattleshipSimulator
from grpo_gym.envs.kernels import kernel


class Posterior:
    """All boards of a game, and which of them fit."""

    def __init__(self, simulator: BattleshipSimulator) -> None:
        """List the boards.

        Raises:
            ConfigError: If there are too many.
        """
        self._simulator = simulator
        self._listed = simulator.listed_layouts()
        covered = simulator.placements.covered
        self._occupied = np.bitwise_or.reduce(covered[self._listed], axis=1)

    def shares(self) -> np.ndarray:
        """The share of fitting boards with a ship at each cell, shape (B, A), float64."""
        simulator = self._simulator
        # Games that look alike, such as all at the start, are counted once.
        announced = np.where(simulator.left == 0, simulator.layouts, -1)
        knowledge = np.concatenate([simulator.seen, announced], axis=1)
        _, first, same = np.unique(knowledge, axis=0, return_index=True, return_inverse=True)
        counts = np.zeros((len(first), simulator.config.cells))
        totals = np.zeros(len(first))
        _count_boards(
            simulator.rules,
            simulator.seen[first],
            simulator.left[first],
            simulator.layouts[first],
            self._listed,
            self._occupied,
            simulator.placements,
            np.zeros((4, self._occupied.shape[1]), np.uint64),
            counts,
            totals,
        )
        shares: np.ndarray = (counts / totals[:, None])[same.reshape(-1)]
        return shares


@kernel
def _count_boards(
    rules: np.ndarray,
    seen: np.ndarray,
    left: np.ndarray,
    layouts: np.ndarray,
    listed: np.ndarray,
    occupied: np.ndarray,
    placements: Placements,
    known: np.ndarray,
    counts: np.ndarray,
    totals: np.ndarray,
) -> None:
    """Count the listed boards that fit each game, and those with a ship at each cell.

    Added to are `counts`, shape (B, A), and `totals`, shape (B,), float64. `listed`, shape (M, S),
    are all boards, and `occupied`, shape (M, W), the bits of their ships; `known` is working
    memory, shape (4, W), uint64. Of `layouts` only announced ships are read.
    """
    cells, covered = placements.cells, placements.covered
    for b in range(seen.shape[0]):
        sort_cells(seen[b], known)
        for board in range(listed.shape[0]):
            if not _agrees_with_shots(occupied[board], known):
                continue
            if rules[0].announce_sunk and not _agrees_with_sinkings(
                left[b], layouts[b], listed[board], covered, known
            ):
                continue
            totals[b] += 1.0
            for placement in listed[board]:
                for cell in cells[placement]:
                    if cell >= 0:
                        counts[b, cell] += 1.0


@kernel
def _agrees_with_shots(occupied: np.ndarray, known: np.ndarray) -> bool:
    for word in range(occupied.shape[0]):
        hit = known[SUNK, word] | known[HIT, word]
        if (occupied[word] & known[MISS, word]) or (occupied[word] & hit) != hit:
            return False
    return True


@kernel
def _agrees_with_sinkings(
    left: np.ndarray, layout: np.ndarray, board: np.ndarray, covered: np.ndarray, known: np.ndarray
) -> bool:
    for ship in range(board.shape[0]):
        if left[ship] == 0:
            for word in range(covered.shape[1]):
                if covered[board[ship], word] != covered[layout[ship], word]:
                    return False
        elif all_hit(board[ship], covered, known):
            return False
    return True
