"""What a shot does. Kernels over batches of games.

Shapes: B games, A cells, S ships, P placements, L cells of the longest ship.
"""

import numpy as np

from grpo_gym.envs.battleship.records import HIT, HITS, MISS, SCORE, SHOTS, SUNK, UNKNOWN, WATER
from grpo_gym.envs.kernels import kernel


@kernel
def start_kernel(
    members: np.ndarray,
    layouts: np.ndarray,
    cells: np.ndarray,
    episodes: np.ndarray,
    ship_at: np.ndarray,
    seen: np.ndarray,
    left: np.ndarray,
) -> None:
    """Lay out the boards of some games and begin them.

    Args:
        members: Which games, shape (M,), int64.
        layouts: The placement of each ship, shape (B, S), int32.
        cells: Of each placement, shape (P, L), int16.
        episodes: `EPISODE` records, shape (B,).
        ship_at: Written: the ship at each cell, shape (B, A), int8.
        seen: Written: what is known of each cell, shape (B, A), int8.
        left: Written: cells of each ship not hit yet, shape (B, S), int8.
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
        episode.reward = 0.0
        episode.hits = 0
        episode.misses = 0
        episode.afloat = layouts.shape[1]
        episode.sunk_length = 0
        episode.hit = False
        episode.repeated = False


@kernel
def shoot_kernel(
    actions: np.ndarray,
    skip: np.ndarray,
    rules: np.ndarray,
    layouts: np.ndarray,
    cells: np.ndarray,
    episodes: np.ndarray,
    ship_at: np.ndarray,
    seen: np.ndarray,
    left: np.ndarray,
) -> None:
    """Shoot once in each game; games that are over stay as they are, with reward 0.

    Args:
        actions: Cells, shape (B,), int64, each in [0, A).
        skip: Games to leave untouched, shape (B,), bool, or empty.
        rules: One `RULES` record, shape (1,).
        layouts: As for `start_kernel`, with the rest.
        cells: Of each placement.
        episodes: Changed, with the rest.
        ship_at: The ship at each cell.
        seen: What is known of each cell.
        left: Cells of each ship not hit yet.
    """
    rule = rules[0]
    for b in range(episodes.shape[0]):
        if skip.shape[0] > 0 and skip[b]:
            continue
        episode = episodes[b]
        episode.reward = 0.0
        episode.sunk_length = 0
        episode.hit = False
        episode.repeated = False
        if episode.afloat == 0 or episode.step >= ship_at.shape[1]:
            continue
        episode.step += 1
        cell = actions[b]
        if seen[b, cell] != UNKNOWN:
            episode.repeated = True
        elif ship_at[b, cell] == WATER:
            seen[b, cell] = MISS
            episode.misses += 1
        else:
            ship = ship_at[b, cell]
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
        if rule.reward == SHOTS:
            episode.reward = -1.0
        elif rule.reward == HITS and not episode.repeated:
            if episode.hit:
                episode.reward = 1.0 / rule.ship_cells
            else:
                episode.reward = -1.0 / (ship_at.shape[1] - rule.ship_cells)
        elif rule.reward == SCORE and episode.hit and episode.afloat == 0:
            water = ship_at.shape[1] - rule.ship_cells
            episode.reward = 1.0 - episode.misses / (water + 1.0)
        if episode.hit:
            episode.reward += rule.hit_bonus
        elif episode.repeated:
            episode.reward -= rule.repeat_penalty
