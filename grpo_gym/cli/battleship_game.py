"""Battleship in the terminal with a policy's advice, or a recording of the adviser's game."""

from collections.abc import Callable, Iterator
from typing import Any, cast

import gymnasium as gym
import numpy as np
from rich.console import Console

from grpo_gym.envs.battleship.baselines import make_baseline
from grpo_gym.envs.battleship.env import BattleshipEnv
from grpo_gym.envs.battleship.posterior import Posterior
from grpo_gym.envs.battleship.rendering import heat
from grpo_gym.envs.battleship.terminal import show
from grpo_gym.settings import ConfigError
from grpo_gym.trainers.grpo import GRPO

Advice = Callable[[np.ndarray], tuple[np.ndarray, int]]
"""From an observation: a value of each cell, shape (A,), and the cell to shoot at."""


def play_game(
    env: gym.Env[Any, Any],
    policy: str,
    model: GRPO | None,
    seed: int,
    auto: bool,
    console: Console,
) -> None:
    """Play one game; the player types cells or takes the advice.

    Args:
        env: The game.
        policy: The baseline that advises if there is no model.
        model: The trained policy that advises.
        seed: Of the board.
        auto: Whether the adviser plays.
        console: The terminal.
    """
    advise, title = _advice(env, policy, model)
    observation, _ = env.reset(seed=seed)
    game = cast(BattleshipEnv, env.unwrapped)
    posterior = _posterior(game)
    history: list[int] = []
    done = False
    while not done:
        values, advised = advise(observation)
        maps = {title: values}
        if posterior is not None:
            maps["chance of a ship, %"] = posterior.shares()[0]
        console.print(show(game.simulator, history, maps))
        cell = advised if auto else _ask(game, advised, console)
        if cell is None:
            break
        observation, _, won, cut, _ = env.step(cell)
        history.append(cell)
        done = won or cut
    console.print(show(game.simulator, history, {}, reveal=True))


def pictures_of_game(
    env: gym.Env[Any, Any], policy: str, model: GRPO | None, seed: int
) -> Iterator[np.ndarray]:
    """Pictures of the adviser's game, with its values beside the board; arguments as above."""
    advise, _ = _advice(env, policy, model)
    observation, _ = env.reset(seed=seed)
    game = cast(BattleshipEnv, env.unwrapped)
    done = False
    while not done:
        game.heat_map, cell = advise(observation)
        yield cast(np.ndarray, env.render())
        observation, _, won, cut, _ = env.step(cell)
        done = won or cut
    yield cast(np.ndarray, env.render())


def _advice(env: gym.Env[Any, Any], policy: str, model: GRPO | None) -> tuple[Advice, str]:
    """The adviser, and the title of its values."""
    game = cast(BattleshipEnv, env.unwrapped)
    if model is None:
        return _baseline_advice(policy, game), "placements that fit, %"
    return _model_advice(model, game), "next shot, %"


def _baseline_advice(name: str, game: BattleshipEnv) -> Advice:
    baseline = make_baseline(name, game)
    state: Any = None

    def advise(observation: np.ndarray) -> tuple[np.ndarray, int]:
        nonlocal state
        action, state = baseline.predict(observation, state)
        return heat(game.simulator, 0, None), int(action)

    return advise


def _model_advice(model: GRPO, game: BattleshipEnv) -> Advice:
    def advise(observation: np.ndarray) -> tuple[np.ndarray, int]:
        shares = model.probabilities(observation, game.action_masks())
        return shares, int(shares.argmax())

    return advise


def _posterior(game: BattleshipEnv) -> Posterior | None:
    """The exact posterior, if all boards can be enumerated."""
    try:
        return Posterior(game.simulator)
    except ConfigError:
        return None


def _ask(game: BattleshipEnv, advised: int, console: Console) -> int | None:
    """The cell that the player types, or None to stop."""
    rows, columns = game.config.board_size
    row, column = divmod(advised, columns)
    while True:
        try:
            text = console.input(
                f"row column (Enter: the advice, {row} {column}; q: stop) > ", markup=False
            )
        except EOFError:
            return None
        words = text.replace(",", " ").split()
        if not words:
            return advised
        if words[0] in ("q", "quit", "exit"):
            return None
        if len(words) == 2 and all(word.isdigit() for word in words):
            row_typed, column_typed = map(int, words)
            cell = row_typed * columns + column_typed
            if row_typed < rows and column_typed < columns:
                if game.action_masks()[cell]:
                    return cell
                console.print("you have shot there before")
                continue
        console.print(f"type a row from 0 to {rows - 1} and a column from 0 to {columns - 1}")
