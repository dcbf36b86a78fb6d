"""Kernels that start games and shoot.

Shapes: B games, A cells, S ships, P placements, L cells of the longest ship.
"""

from typing import Any

import numpy as np

from grpo_gym.envs.battleship.records import HIT, HITS, MISS, SCORE, SHOTS, SUNK, UNKNOWN, WATER
from grpo_gym.envs.kernels import inlined, kernel


@kernel
def start_kernel(
    members: np.ndarray,
    cells: np.ndarray,
    episodes: np.ndarray,
    layouts: np.ndarray,
    ship_at: np.ndarray,
    seen: np.ndarray,
    left: np.ndarray,
) -> None:
    """Set up the boards that `layouts` describes in the given games, and start these.

    `members`, shape (M,), int64, are indices of games; `cells` are those of `Placements`, and the
    other arrays those of `BattleshipSimulator`.
    """
    for m in range(members.shape[0]):
        b = members[m]
        for cell in range(ship_at.shape[1]):
            ship_at[b, cell] = WATER
            seen[b, cell] = UNKNOWN
        for ship in range(layouts.shape[1]):
            left[b, ship] = 0
            for i in range(cells.shape[1]):
                cell = cells[layouts[b, ship], i]
                if cell >= 0:
                    ship_at[b, cell] = ship
                    left[b, ship] += 1
        episode = episodes[b]
        episode.step = 0
        episode.hits = 0
        episode.misses = 0
        episode.afloat = layouts.shape[1]
        _clear_outcome(episode)


@kernel
def shoot_kernel(
    actions: np.ndarray,
    skip: np.ndarray,
    rules: np.ndarray,
    cells: np.ndarray,
    episodes: np.ndarray,
    layouts: np.ndarray,
    ship_at: np.ndarray,
    seen: np.ndarray,
    left: np.ndarray,
) -> None:
    """Shoot once in each game; finished games stay as they are, with reward 0.

    `actions` are cells, shape (B,), int64; `skip` the games to leave untouched, shape (B,), bool,
    or empty; the other arrays are those of `start_kernel`.
    """
    rule = rules[0]
    for b in range(episodes.shape[0]):
        if skip.shape[0] > 0 and skip[b]:
            continue
        episode = episodes[b]
        _clear_outcome(episode)
        if episode.afloat == 0 or episode.step >= ship_at.shape[1]:
            continue
        episode.step += 1
        cell = actions[b]
        ship = ship_at[b, cell]
        if seen[b, cell] != UNKNOWN:
            episode.repeated = True
        elif ship == WATER:
            seen[b, cell] = MISS
            episode.misses += 1
        else:
            seen[b, cell] = HIT
            episode.hit = True
            episode.hits += 1
            left[b, ship] -= 1
            if left[b, ship] == 0:
                episode.afloat -= 1
                if rule.announce_sunk:
                    for i in range(cells.shape[1]):
                        sunk = cells[layouts[b, ship], i]
                        if sunk >= 0:
                            seen[b, sunk] = SUNK
                            episode.sunk_length += 1
        episode.reward = _reward(episode, rule, ship_at.shape[1] - rule.ship_cells)


@inlined
def _clear_outcome(episode: Any) -> None:
    episode.reward = 0.0
    episode.sunk_length = 0
    episode.hit = False
    episode.repeated = False


@inlined
def _reward(episode: Any, rule: Any, water: int) -> float:
    """The reward of the last shot; `water` is the number of cells without a ship."""
    reward = 0.0
    if rule.reward == SHOTS:
        reward = -1.0
    elif rule.reward == HITS and episode.hit:
        reward = 1.0 / rule.ship_cells
    elif rule.reward == HITS and not episode.repeated:
        reward = -1.0 / water
    elif rule.reward == SCORE and episode.hit and episode.afloat == 0:
        reward = 1.0 - episode.misses / (water + 1.0)
    if episode.hit:
        reward += rule.hit_bonus
    elif episode.repeated:
        reward -= rule.repeat_penalty
    return reward


@kernel
def ends_kernel(
    episodes: np.ndarray, cells: int, won: np.ndarray, out_of_shots: np.ndarray
) -> None:
    """Write which games are won and which are out of shots, both of shape (B,), bool."""
    for b in range(episodes.shape[0]):
        won[b] = episodes[b].afloat == 0
        out_of_shots[b] = not won[b] and episodes[b].step >= cells
