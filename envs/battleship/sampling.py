"""Where ships are, given what the player knows: estimated from random boards that fit.

Shapes: B games, A cells, S ships, P placements, W words of 64 cells.
"""

from typing import Any, NamedTuple

import numpy as np

from grpo_gym.envs.battleship.density import all_hit, fits, sort_cells
from grpo_gym.envs.battleship.placements import Placements, overlaps
from grpo_gym.envs.battleship.records import HIT, UNKNOWN
from grpo_gym.envs.battleship.simulator import BattleshipSimulator
from grpo_gym.envs.kernels import kernel
from grpo_gym.envs.randomness import mix, stream_key, uniform

SAMPLES = 300
"""Boards that `sample_posterior` draws for each game."""
_SAMPLES_STREAM = 2
_ONE = np.uint64(1)


class Sample(NamedTuple):
    """Working memory of `sample_posterior`.

    Attributes:
        known: Bits of unknown, missed, hit and sunk cells, shape (4, W), uint64.
        fitting: Placements that fit, ship after ship, shape (P,), int64.
        first: Index of each ship's first one in `fitting`, shape (S + 1,), int64.
        chosen: The placement of each ship, or -1, shape (S,), int64.
        closed: Bits of cells that the ships placed close to others, shape (W,), uint64.
        covered: Bits of cells that the ships placed cover, shape (W,), uint64.
    """

    known: np.ndarray
    fitting: np.ndarray
    first: np.ndarray
    chosen: np.ndarray
    closed: np.ndarray
    covered: np.ndarray


def sample_posterior(simulator: BattleshipSimulator, salt: np.uint64) -> np.ndarray:
    """Estimate `Posterior.shares` for boards of any size.

    Boards are built ship by ship, first around open hits. Each weighs the product of the numbers
    of choices, which makes all boards count the same (sequential importance sampling).

    Args:
        simulator: The games.
        salt: Determines the random choices, together with each game's seed and step.

    Returns:
        Shape (B, A), float64, 0 for cells that are known; a row is 0 where no sample was a board.
    """
    placements = simulator.placements
    count, words = placements.covered.shape
    ships = len(simulator.config.fleet)
    sample = Sample(
        known=np.zeros((4, words), np.uint64),
        fitting=np.zeros(count, np.int64),
        first=np.zeros(ships + 1, np.int64),
        chosen=np.zeros(ships, np.int64),
        closed=np.zeros(words, np.uint64),
        covered=np.zeros(words, np.uint64),
    )
    counts = np.zeros(simulator.seen.shape)
    totals = np.zeros(simulator.num_envs)
    rules, seen, left, games = simulator.rules, simulator.seen, simulator.left, simulator.episodes
    _sample_boards(rules, seen, left, games, salt, placements, sample, counts, totals)
    return counts / np.where(totals > 0.0, totals, 1.0)[:, None]


@kernel
def _sample_boards(
    rules: np.ndarray,
    seen: np.ndarray,
    left: np.ndarray,
    episodes: np.ndarray,
    salt: np.uint64,
    placements: Placements,
    sample: Sample,
    counts: np.ndarray,
    totals: np.ndarray,
) -> None:
    """Add up weighted boards that fit each game: by cell, shape (B, A), and in all, shape (B,)."""
    chosen = sample.chosen
    for b in range(seen.shape[0]):
        sort_cells(seen[b], sample.known)
        _list_fitting(rules[0], left[b], placements, sample)
        key = mix(mix(episodes[b].base_seed ^ mix(salt)) + np.uint64(episodes[b].episode))
        key = stream_key(mix(key + np.uint64(episodes[b].step)), _SAMPLES_STREAM)
        draws = 0
        for _ in range(SAMPLES):
            weight, draws = _draw_board(rules[0], left[b], placements, sample, key, draws)
            if weight == 0.0:
                continue
            totals[b] += weight
            for ship in range(chosen.shape[0]):
                for i in range(placements.cells.shape[1]):
                    cell = placements.cells[chosen[ship], i] if chosen[ship] >= 0 else -1
                    if cell >= 0 and seen[b, cell] == UNKNOWN:
                        counts[b, cell] += weight


@kernel
def _list_fitting(rule: Any, left: np.ndarray, placements: Placements, sample: Sample) -> None:
    covered, known = placements.covered, sample.known
    count = 0
    for ship in range(left.shape[0]):
        sample.first[ship] = count
        if rule.announce_sunk and left[ship] == 0:
            continue
        for placement in range(placements.first[ship], placements.first[ship + 1]):
            sunk = rule.announce_sunk and all_hit(placement, covered, known)
            if not sunk and fits(placement, covered, placements.closed, known, rule.allow_touch):
                sample.fitting[count] = placement
                count += 1
    sample.first[left.shape[0]] = count


@kernel
def _draw_board(
    rule: Any,
    left: np.ndarray,
    placements: Placements,
    sample: Sample,
    key: np.uint64,
    draws: int,
) -> tuple[float, int]:
    """Draw one board into `sample.chosen`.

    Returns:
        Its weight, 0 if some ship had no place, and the random numbers used so far.
    """
    weight = 1.0
    sample.chosen[:] = -1
    sample.closed[:] = np.uint64(0)
    sample.covered[:] = np.uint64(0)
    hit = _first_open_hit(sample)
    while hit >= 0 and weight > 0.0:  # some ship covers each open hit
        choices = _place(-1, hit, key, draws, placements, sample)
        weight *= choices
        draws += choices
        hit = _first_open_hit(sample)
    for ship in placements.order:
        sunk = rule.announce_sunk and left[ship] == 0
        if weight > 0.0 and sample.chosen[ship] < 0 and not sunk:
            choices = _place(ship, -1, key, draws, placements, sample)
            weight *= choices
            draws += choices
    return weight, draws


@kernel
def _first_open_hit(sample: Sample) -> int:
    """The first open hit that no ship covers so far, or -1."""
    for word in range(sample.covered.shape[0]):
        rest = sample.known[HIT, word] & ~sample.covered[word]
        for bit in range(64):
            if (rest >> np.uint64(bit)) & _ONE:
                return 64 * word + bit
    return -1


@kernel
def _place(
    wanted: int, hit: int, key: np.uint64, draws: int, placements: Placements, sample: Sample
) -> int:
    """Place a ship (any for -1) over a cell (any for -1) at random, and count the choices."""
    covered, chosen = placements.covered, sample.chosen
    choices, best_ship, best = 0, -1, np.int64(-1)
    for ship in range(chosen.shape[0]):
        if chosen[ship] >= 0 or (wanted >= 0 and ship != wanted):
            continue
        for i in range(sample.first[ship], sample.first[ship + 1]):
            placement = sample.fitting[i]
            if hit >= 0 and not (covered[placement, hit // 64] >> np.uint64(hit % 64)) & _ONE:
                continue
            if overlaps(covered, placement, sample.closed):
                continue
            choices += 1
            if uniform(key, draws + choices) * choices <= 1.0:  # reservoir sampling
                best_ship, best = ship, placement
    if choices:
        chosen[best_ship] = best
        for word in range(covered.shape[1]):
            sample.closed[word] |= placements.closed[best, word]
            sample.covered[word] |= covered[best, word]
    return choices
