"""Where ships are, given what has been seen: over all boards, or over a sample of them.

A board fits if it has the ships that sank where they sank, covers every open hit and no miss, and
if sinking is announced, has no other ship whose cells are all hit.

Shapes: B games, A cells, S ships, P placements, L cells of the longest ship, W words of 64 cells,
M listed boards.
"""

import numpy as np

from grpo_gym.envs.battleship.density import bits_kernel, fits_kernel
from grpo_gym.envs.battleship.records import UNKNOWN
from grpo_gym.envs.battleship.simulator import BattleshipSimulator
from grpo_gym.envs.kernels import inlined, kernel
from grpo_gym.envs.randomness import mix, stream_key, uniform

SAMPLES = 300
"""Boards that `sample_posterior` draws for each game."""
_SAMPLES_STREAM = 2
_ONE = np.uint64(1)


class Posterior:
    """All boards of a game, and which of them fit."""

    def __init__(self, simulator: BattleshipSimulator) -> None:
        """List the boards.

        Raises:
            ConfigError: If there are too many.
        """
        self._simulator = simulator
        self._listed = simulator.listed_layouts()
        placements = simulator.placements
        self._occupied = np.bitwise_or.reduce(placements.covered[self._listed], axis=1)

    def shares(self) -> np.ndarray:
        """The share of fitting boards in which each cell is a ship's, shape (B, A), float64."""
        simulator, placements = self._simulator, self._simulator.placements
        # Games that look alike, such as all at the start, are looked at once.
        announced = np.where(simulator.left == 0, simulator.layouts, -1)
        knowledge = np.concatenate([simulator.seen, announced], axis=1)
        _, first, same = np.unique(knowledge, axis=0, return_index=True, return_inverse=True)
        counts = np.zeros((len(first), simulator.config.cells))
        totals = np.zeros(len(first))
        count_boards(
            simulator.rules,
            simulator.seen[first],
            simulator.left[first],
            simulator.layouts[first],
            self._listed,
            self._occupied,
            placements.cells,
            placements.covered,
            np.zeros((3, placements.covered.shape[1]), np.uint64),
            counts,
            totals,
        )
        shares: np.ndarray = (counts / totals[:, None])[same.reshape(-1)]
        return shares


def sample_posterior(simulator: BattleshipSimulator, salt: np.uint64) -> np.ndarray:
    """An estimate of `Posterior.shares` for boards of any size.

    Boards are built ship by ship, first around open hits, and weighted by how many choices there
    were at each turn (sequential importance sampling), which makes all of them count the same.

    Args:
        simulator: The games.
        salt: Decides the random choices, with each game's seed and step.

    Returns:
        Shape (B, A), float64; a row is 0 where no sample was a board.
    """
    placements = simulator.placements
    words = placements.covered.shape[1]
    counts = np.zeros(simulator.seen.shape)
    totals = np.zeros(simulator.num_envs)
    sample_kernel(
        simulator.rules,
        simulator.seen,
        simulator.left,
        simulator.episodes,
        salt,
        placements.first,
        placements.order,
        placements.cells,
        placements.covered,
        placements.closed,
        np.zeros((3, words), np.uint64),
        np.zeros((2, words), np.uint64),
        np.zeros(len(placements.cells), np.int64),
        np.zeros(len(placements.first), np.int64),
        np.zeros(len(simulator.config.fleet), np.int64),
        counts,
        totals,
    )
    return counts / np.where(totals > 0.0, totals, 1.0)[:, None]


@kernel
def count_boards(
    rules: np.ndarray,
    seen: np.ndarray,
    left: np.ndarray,
    layouts: np.ndarray,
    listed: np.ndarray,
    occupied: np.ndarray,
    cells: np.ndarray,
    covered: np.ndarray,
    known: np.ndarray,
    counts: np.ndarray,
    totals: np.ndarray,
) -> None:
    """Count the listed boards that fit each game, and those that cover each cell.

    Args:
        rules: One `RULES` record, shape (1,).
        seen: What is known of each cell, shape (B, A), int8.
        left: Cells of each ship not hit yet, shape (B, S), int8.
        layouts: The placement of each ship, shape (B, S), int32; read of announced ships only.
        listed: All boards, shape (M, S), int32.
        occupied: Bits of each board's ships, shape (M, W), uint64.
        cells: Of each placement, shape (P, L), int16.
        covered: Bits of those cells, shape (P, W), uint64.
        known: Scratch, shape (3, W), uint64.
        counts: Added to: boards that cover each cell, shape (B, A), float64.
        totals: Added to: boards that fit, shape (B,), float64.
    """
    announce = rules[0].announce_sunk
    for b in range(seen.shape[0]):
        bits_kernel(seen[b], known)
        for board in range(listed.shape[0]):
            if not _covers_what_was_hit(occupied[board], known):
                continue
            if announce and not _sinks_what_sank(
                left[b], layouts[b], listed[board], covered, known
            ):
                continue
            totals[b] += 1.0
            for ship in range(listed.shape[1]):
                for i in range(cells.shape[1]):
                    cell = cells[listed[board, ship], i]
                    if cell >= 0:
                        counts[b, cell] += 1.0


@kernel
def _covers_what_was_hit(occupied: np.ndarray, known: np.ndarray) -> bool:
    for word in range(occupied.shape[0]):
        hit = known[1, word] | known[2, word]
        if (occupied[word] & known[0, word]) or (occupied[word] & hit) != hit:
            return False
    return True


@kernel
def _sinks_what_sank(
    left: np.ndarray,
    layout: np.ndarray,
    board: np.ndarray,
    covered: np.ndarray,
    known: np.ndarray,
) -> bool:
    for ship in range(board.shape[0]):
        if left[ship] == 0:
            for word in range(covered.shape[1]):
                if covered[board[ship], word] != covered[layout[ship], word]:
                    return False
        elif _all_hit(board[ship], covered, known):
            return False
    return True


@inlined
def _all_hit(placement: int, covered: np.ndarray, known: np.ndarray) -> bool:
    dry = np.uint64(0)
    for word in range(covered.shape[1]):
        dry |= covered[placement, word] & ~known[2, word]
    return dry == np.uint64(0)


@kernel
def sample_kernel(
    rules: np.ndarray,
    seen: np.ndarray,
    left: np.ndarray,
    episodes: np.ndarray,
    salt: np.uint64,
    first: np.ndarray,
    order: np.ndarray,
    cells: np.ndarray,
    covered: np.ndarray,
    closed: np.ndarray,
    known: np.ndarray,
    taken: np.ndarray,
    fitting: np.ndarray,
    fitting_first: np.ndarray,
    chosen: np.ndarray,
    counts: np.ndarray,
    totals: np.ndarray,
) -> None:
    """Add up weighted boards that fit each game; see `sample_posterior`.

    Args:
        rules: One `RULES` record, shape (1,).
        seen: What is known of each cell, shape (B, A), int8.
        left: Cells of each ship not hit yet, shape (B, S), int8.
        episodes: `EPISODE` records, shape (B,).
        salt: Decides the random choices.
        first: Of `Placements`, as the next four.
        order: Ships in the order in which they are placed.
        cells: Of each placement.
        covered: Bits of those cells.
        closed: Bits of cells that no other ship may cover.
        known: Scratch, shape (3, W), uint64.
        taken: Scratch: closed by the ships placed, and covered by them, shape (2, W), uint64.
        fitting: Scratch: placements that fit, ship after ship, shape (P,), int64.
        fitting_first: Scratch: where each ship's begin, shape (S + 1,), int64.
        chosen: Scratch: the placement of each ship, shape (S,), int64.
        counts: Added to, shape (B, A), float64.
        totals: Added to: weights of all boards, shape (B,), float64.
    """
    announce, allow_touch = rules[0].announce_sunk, rules[0].allow_touch
    for b in range(seen.shape[0]):
        bits_kernel(seen[b], known)
        _list_fitting(
            announce, allow_touch, left[b], first, covered, closed, known, fitting, fitting_first
        )
        key = mix(mix(episodes[b].base_seed ^ mix(salt)) + np.uint64(episodes[b].episode))
        key = stream_key(mix(key + np.uint64(episodes[b].step)), _SAMPLES_STREAM)
        draws = 0
        for _ in range(SAMPLES):
            weight = 1.0
            taken[:] = np.uint64(0)
            chosen[:] = -1
            hit = _first_open(known, taken)
            while hit >= 0 and weight > 0.0:  # some ship covers each open hit
                choices = _place(
                    -1, hit, key, draws, fitting, fitting_first, covered, closed, taken, chosen
                )
                weight *= choices
                draws += choices
                hit = _first_open(known, taken)
            for i in range(order.shape[0]):
                ship = order[i]
                if weight > 0.0 and chosen[ship] < 0 and not (announce and left[b, ship] == 0):
                    choices = _place(
                        ship, -1, key, draws, fitting, fitting_first, covered, closed, taken, chosen
                    )
                    weight *= choices
                    draws += choices
            if weight > 0.0:
                totals[b] += weight
                for ship in range(chosen.shape[0]):
                    for i in range(cells.shape[1]):
                        cell = cells[chosen[ship], i] if chosen[ship] >= 0 else -1
                        if cell >= 0 and seen[b, cell] == UNKNOWN:
                            counts[b, cell] += weight


@kernel
def _list_fitting(
    announce: bool,
    allow_touch: bool,
    left: np.ndarray,
    first: np.ndarray,
    covered: np.ndarray,
    closed: np.ndarray,
    known: np.ndarray,
    fitting: np.ndarray,
    fitting_first: np.ndarray,
) -> None:
    count = 0
    for ship in range(left.shape[0]):
        fitting_first[ship] = count
        if announce and left[ship] == 0:
            continue
        for placement in range(first[ship], first[ship + 1]):
            if fits_kernel(placement, covered, closed, known, allow_touch) and not (
                announce and _all_hit(placement, covered, known)
            ):
                fitting[count] = placement
                count += 1
    fitting_first[left.shape[0]] = count


@kernel
def _first_open(known: np.ndarray, taken: np.ndarray) -> int:
    """The first open hit that no ship covers so far, or -1."""
    for word in range(known.shape[1]):
        rest = known[2, word] & ~taken[1, word]
        if rest != np.uint64(0):
            bit = 0
            while not (rest >> np.uint64(bit)) & _ONE:
                bit += 1
            return 64 * word + bit
    return -1


@kernel
def _place(
    wanted: int,
    hit: int,
    key: np.uint64,
    draws: int,
    fitting: np.ndarray,
    fitting_first: np.ndarray,
    covered: np.ndarray,
    closed: np.ndarray,
    taken: np.ndarray,
    chosen: np.ndarray,
) -> int:
    """Place a ship (any for -1), over a cell (any for -1), at random; how many ways there were."""
    choices = 0
    best_ship, best = -1, np.int64(-1)
    for ship in range(chosen.shape[0]):
        if chosen[ship] >= 0 or (wanted >= 0 and ship != wanted):
            continue
        for i in range(fitting_first[ship], fitting_first[ship + 1]):
            placement = fitting[i]
            if hit >= 0 and not (covered[placement, hit // 64] >> np.uint64(hit % 64)) & _ONE:
                continue
            common = np.uint64(0)
            for word in range(covered.shape[1]):
                common |= covered[placement, word] & taken[0, word]
            if common != np.uint64(0):
                continue
            choices += 1
            if uniform(key, draws + choices) * choices <= 1.0:
                best_ship, best = ship, placement
    if choices:
        chosen[best_ship] = best
        for word in range(covered.shape[1]):
            taken[0, word] |= closed[best, word]
            taken[1, word] |= covered[best, word]
    return choices
