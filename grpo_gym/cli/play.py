"""`play`: Battleship in the terminal with a policy's advice, or a recording of its game."""

from collections.abc import Callable, Sequence
from dataclasses import field
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

import gymnasium as gym
import numpy as np
from PIL import Image
from rich.console import Console

from grpo_gym.cli.failures import reported
from grpo_gym.cli.options import CommandLine
from grpo_gym.cli.outputs import claim_output
from grpo_gym.envs.battleship.baselines import make_baseline
from grpo_gym.envs.battleship.env import BattleshipEnv
from grpo_gym.envs.battleship.posterior import Posterior
from grpo_gym.envs.battleship.rendering import heat
from grpo_gym.envs.battleship.terminal import show
from grpo_gym.settings import ConfigError, EnvId, Flag, Natural, checked_dataclass
from grpo_gym.trainers.grpo import GRPO
from grpo_gym.trainers.named_policies import baseline_names, find_checkpoint, load_model

Advice = Callable[[np.ndarray], tuple[np.ndarray, int]]
"""From an observation: a value of each cell, shape (A,), and the cell to shoot at."""


@checked_dataclass
class PlayOptions:
    """The game, the adviser, and who shoots."""

    env: EnvId = "Battleship-v0"
    """Id of the environment."""
    env_kwargs: dict[str, Any] = field(default_factory=dict)
    """Arguments of the environment; with a trained policy, over those of training."""
    policy: str = "probability_density"
    """Who advises: a baseline's name, a checkpoint file, or a run's folder."""
    seed: Natural = 0
    """Seed of the board."""
    auto: Flag = False
    """Let the adviser play."""
    record: Path | None = None
    """Let the adviser play and write pictures of its game to this file, .gif or .mp4."""

    def __post_init__(self) -> None:
        if self.env != "Battleship-v0":
            raise ConfigError(f"env must be 'Battleship-v0' to be played, got {self.env!r}")
        if self.record is None:
            return
        if self.record.suffix not in (".gif", ".mp4"):
            raise ConfigError(f"--record must end in .gif or .mp4, got {self.record}")
        if self.record.suffix == ".mp4" and not find_spec("moviepy"):
            raise ConfigError(
                f"--record must end in .gif without moviepy, got {self.record}: "
                'pip install "grpo-gym[render]"'
            )


_LINE = CommandLine(
    "play",
    "Play Battleship in the terminal with a policy's advice, or record its game.\n\n"
    "For example:\n"
    "  --env Battleship-v0 --env-kwargs preset=microgrpo-5x5 --policy exact_posterior\n"
    "  --policy runs/Battleship-v0/grpo-seed0-... --record game.gif",
    {"play": PlayOptions},
)


@reported
def main(arguments: Sequence[str]) -> int:
    """Run the command; returns its exit status."""
    options: PlayOptions = _LINE.read(arguments)["play"]
    if options.record is not None:
        claim_output(options.record, "--record")
    console = Console(highlight=False)
    model = None if options.policy in baseline_names(options.env) else _load(options)
    env: gym.Env[Any, Any] = gym.make(
        options.env,
        render_mode=None if options.record is None else "rgb_array",
        **(options.env_kwargs if model is None else model.env_kwargs),
    )
    game = cast(BattleshipEnv, env.unwrapped)
    if model is None:
        advise, title = _baseline_advice(options.policy, game), "placements that fit, %"
    else:
        advise, title = _model_advice(model, game), "next shot, %"
    if options.record is None:
        _play(env, advise, title, options, console)
    else:
        _record(env, advise, options.seed, options.record)
        console.print(f"written: {options.record}", markup=False)
    return 0


def _load(options: PlayOptions) -> GRPO:
    """The trained policy, for the environment of its training with the options' arguments."""
    checkpoint = find_checkpoint(options.policy, options.env)
    return cast(GRPO, load_model(checkpoint, options.env, options.env_kwargs))


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


def _play(
    env: gym.Env[Any, Any], advise: Advice, title: str, options: PlayOptions, console: Console
) -> None:
    """Play one game; the player types cells or takes the advice, whose values have this title."""
    observation, _ = env.reset(seed=options.seed)
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
        cell = advised if options.auto else _ask(game, advised, console)
        if cell is None:
            break
        observation, _, won, cut, _ = env.step(cell)
        history.append(cell)
        done = won or cut
    console.print(show(game.simulator, history, {}, reveal=True))


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


def _record(env: gym.Env[Any, Any], advise: Advice, seed: int, path: Path) -> None:
    """Write pictures of the adviser's game, with its values beside the board."""
    observation, _ = env.reset(seed=seed)
    game = cast(BattleshipEnv, env.unwrapped)
    frames: list[Any] = []
    done = False
    while not done:
        game.heat_map, cell = advise(observation)
        frames.append(env.render())
        observation, _, won, cut, _ = env.step(cell)
        done = won or cut
    frames.append(env.render())
    env.close()
    if path.suffix == ".gif":
        images = [Image.fromarray(frame) for frame in frames]
        durations = [250] * (len(images) - 1) + [3000]
        images[0].save(path, save_all=True, append_images=images[1:], duration=durations, loop=0)
    else:
        from moviepy import ImageSequenceClip  # of the extra `render`

        ImageSequenceClip(frames, fps=env.metadata["render_fps"]).write_videofile(path, logger=None)
