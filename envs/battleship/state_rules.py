"""What holds in every state of a game: boards are legal, and all counts agree with them.

Shapes: M games, A cells, S ships, W words of 64 cells, L cells of the longest ship.
"""

from collections.abc import Iterator, Mapping

import numpy as np

from grpo_gym.envs.batch_simulator import Rule, within
from grpo_gym.envs.battleship.placements import Placements
from grpo_gym.envs.battleship.presets import BattleshipConfig
from grpo_gym.envs.battleship.records import HIT, MISS, SUNK, UNKNOWN, WATER


def game_rules(
    state: Mapping[str, np.ndarray], config: BattleshipConfig, placements: Placements
) -> Iterator[Rule]:
    """The rules of `BattleshipSimulator.state_rules`: only its seeds and last outcomes are free."""
    layouts, ship_at, seen = state["layouts"], state["ship_at"], state["seen"]
    places = within(layouts, placements.first[:-1], placements.first[1:] - 1)
    yield "each ship at one of its places", places
    yield "ships that keep apart", _apart(layouts, placements)
    yield "ship_at as its ships lie", ship_at == _ships_at(layouts, placements, config.cells)
    yield "known kinds of cells", within(seen, UNKNOWN, SUNK)
    ships = np.arange(len(config.fleet), dtype=np.int8)
    unhit = (ship_at[:, :, None] == ships) & (seen == UNKNOWN)[:, :, None]
    yield "ships as long as their cells not hit", state["left"] == unhit.sum(axis=1)
    expected = _kinds_when_shot(state, config)
    yield "cells seen as they are", (seen == UNKNOWN) | (seen == expected)
    yield from _episode_rules(state, config)


def _episode_rules(state: Mapping[str, np.ndarray], config: BattleshipConfig) -> Iterator[Rule]:
    episodes, seen = state["episodes"], state["seen"]
    misses, known = (seen == MISS).sum(axis=1), (seen != UNKNOWN).sum(axis=1)
    yield "as many ships afloat", episodes["afloat"] == (state["left"] > 0).sum(axis=1)
    yield "as many hits", episodes["hits"] == known - misses
    yield "as many misses", episodes["misses"] == misses
    yield "at least a step for each shot", within(episodes["step"], known, config.cells)
    most = 1.0 + config.hit_bonus + config.repeat_penalty
    yield "a reward of these rules", within(episodes["reward"], -most, most)
    yield "a sunk ship of the fleet", within(episodes["sunk_length"], 0, max(config.fleet))


def _apart(layouts: np.ndarray, placements: Placements) -> np.ndarray:
    """Whether no ship lies where another keeps it away, shape (M,), bool."""
    apart = np.ones(len(layouts), np.bool_)
    taken = np.zeros((len(layouts), placements.closed.shape[1]), np.uint64)
    for placement in layouts.T:
        apart &= ~(placements.covered[placement] & taken).any(axis=1)
        taken |= placements.closed[placement]
    return apart


def _ships_at(layouts: np.ndarray, placements: Placements, cells: int) -> np.ndarray:
    """The ship at each cell, shape (M, A), int8."""
    # One cell more, for the places beyond the ends of shorter ships.
    ship_at = np.full((len(layouts), cells + 1), WATER, np.int8)
    games = np.arange(len(layouts))[:, None]
    for ship, placement in enumerate(layouts.T):
        ship_at[games, placements.cells[placement]] = ship
    return ship_at[:, :cells]


def _kinds_when_shot(state: Mapping[str, np.ndarray], config: BattleshipConfig) -> np.ndarray:
    """What is known of each cell once it has been shot at, shape (M, A)."""
    ship_at = state["ship_at"]
    kinds = np.where(ship_at == WATER, MISS, HIT)
    if config.announce_sunk:
        games = np.arange(len(ship_at))[:, None]
        kinds[(ship_at != WATER) & (state["left"][games, ship_at] == 0)] = SUNK
    return kinds
