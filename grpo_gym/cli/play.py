"""`play`: watch a policy in any environment, or play Battleship with its advice."""

import os
from collections.abc import Sequence
from contextlib import closing
from dataclasses import field
from pathlib import Path
from typing import Any, Literal, cast

import gymnasium as gym
import numpy as np
from rich.console import Console

from grpo_gym.cli.battleship_game import pictures_of_game, play_game
from grpo_gym.cli.displays import avoid_crashes
from grpo_gym.cli.failures import reported
from grpo_gym.cli.options import CommandLine, as_option
from grpo_gym.cli.outputs import claim_output
from grpo_gym.cli.recording import check_recording, write_recording
from grpo_gym.cli.signals import StopSignals
from grpo_gym.cli.watching import action_function, frames_per_second, make_visible, terminal, watch
from grpo_gym.evaluation.episodes import Evaluable
from grpo_gym.settings import ConfigError, Count, EnvId, Flag, Natural, checked_dataclass
from grpo_gym.settings.effects import Needs, refuse_without_effect
from grpo_gym.trainers.grpo import GRPO
from grpo_gym.trainers.named_policies import baseline_names, check_environment, load_policy

_GAME = "Battleship-v0"
_ADVISER = "probability_density"
_GAME_PICTURES_PER_SECOND = 4.0


@checked_dataclass
class PlayOptions:
    """The environment, the policy, and where to see it."""

    env: EnvId | None = None
    """Id of the environment; by default the one the policy was trained in, or Battleship-v0."""
    env_kwargs: dict[str, Any] = field(default_factory=dict)
    """Arguments of the environment; with a trained policy, over those of training."""
    policy: str | None = None
    """A baseline's name, a checkpoint file, a run's folder, or pretrained:router; by default
    random, in Battleship-v0 probability_density."""
    seed: Natural = 0
    """Seed of the first episode; episode i has seed + i."""
    episodes: Count = 1
    """How many episodes to show."""
    steps: Count = 1000
    """Steps to show of each at most."""
    stochastic: Flag = False
    """Sample a trained policy's actions instead of taking the most probable."""
    show: Literal["window", "terminal"] | None = None
    """Where to watch; by default a window if the environment has one and there is a display, else
    the terminal. In Battleship-v0, by default you play."""
    auto: Flag = False
    """In your game of Battleship-v0, let the adviser play."""
    record: Path | None = None
    """Write pictures to this file, .gif or .mp4, instead."""

    def __post_init__(self) -> None:
        if self.record is not None:
            check_recording(self.record)
            if self.show is not None:
                raise ConfigError("--record must come without --show: it writes a file instead")


_LINE = CommandLine(
    "play",
    "Watch a policy play in a window, in the terminal, or in a file; or play Battleship with its "
    "advice.\n\n"
    "For example:\n"
    "  --env CartPole-v1 --policy runs/CartPole-v1/grpo-seed0-... --record cart.mp4\n"
    "  --env LoadBalancer-v0 --policy least_connections --show terminal\n"
    "  --env Battleship-v0 --env-kwargs preset=microgrpo-5x5 --policy exact_posterior",
    {"play": PlayOptions},
)


@reported
def main(arguments: Sequence[str]) -> int:
    """Run the command; returns its exit status."""
    options: PlayOptions = _LINE.read(arguments)["play"]
    env_id, kwargs, policy, model = _resolve(options)
    is_game = env_id.removeprefix("grpo_gym:") == _GAME and options.show is None
    watched = "an environment is watched, not your game of Battleship-v0"
    needs = (
        Needs(("auto",), "--env is Battleship-v0, without --show", lambda _: is_game),
        Needs(("episodes", "steps"), watched, lambda _: not is_game),
        Needs(
            ("stochastic",),
            "--policy is a trained one, and " + watched,
            lambda _: model is not None and not is_game,
        ),
    )
    refuse_without_effect(options, needs, vars(options), as_option)
    if options.record is not None:
        claim_output(options.record, "--record")
    os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
    avoid_crashes()
    console = Console(highlight=False)
    with StopSignals().installed():
        if is_game:
            _game(options, kwargs, policy, cast(GRPO | None, model), console)
        else:
            _watch(options, env_id, kwargs, policy, model, console)
    if options.record is not None:
        console.print(f"written: {options.record}", markup=False)
    return 0


def _resolve(options: PlayOptions) -> tuple[str, dict[str, Any], str, Evaluable | None]:
    """The environment and its arguments, and the policy: a name, and a model unless a baseline."""
    env_id, policy = options.env, options.policy
    if env_id is None and (policy is None or policy in baseline_names(_GAME)):
        env_id = _GAME
    if policy is None:
        policy = _ADVISER if env_id is not None and _ADVISER in baseline_names(env_id) else "random"
    if env_id is not None:
        check_environment(env_id, options.env_kwargs)
        if policy in baseline_names(env_id):
            return env_id, options.env_kwargs, policy, None
    model = load_policy(policy, env_id, options.env_kwargs)
    return str(model.env_source), model.env_kwargs, policy, model


def _game(
    options: PlayOptions,
    kwargs: dict[str, Any],
    policy: str,
    model: GRPO | None,
    console: Console,
) -> None:
    mode = None if options.record is None else "rgb_array"
    with closing(gym.make(_GAME, render_mode=mode, **kwargs)) as env:
        if options.record is None:
            play_game(env, policy, model, options.seed, options.auto, console)
        else:
            pictures = list(pictures_of_game(env, policy, model, options.seed))
            write_recording(pictures, options.record, _GAME_PICTURES_PER_SECOND)


def _watch(
    options: PlayOptions,
    env_id: str,
    kwargs: dict[str, Any],
    policy: str,
    model: Evaluable | None,
    console: Console,
) -> None:
    env, view = make_visible(env_id, kwargs, "file" if options.record else options.show)
    per_second = frames_per_second(env)
    pictures: list[np.ndarray] = []
    show = terminal(console.is_terminal, per_second, console.out)
    with closing(env):
        act = action_function(policy, model, env_id, env, not options.stochastic, options.seed)
        seeds = range(options.seed, options.seed + options.episodes)
        keep = pictures.append if view == "file" else show
        for episode in watch(env, act, seeds, options.steps, keep):
            end = "" if episode.is_over else ", and it goes on"
            console.print(
                f"episode of seed {episode.seed}: return {episode.total:.6g} in "
                f"{episode.steps:,} steps{end}"
            )
    if options.record is not None:
        _check_pictures(env_id, pictures)
        write_recording(pictures, options.record, per_second)


def _check_pictures(env_id: str, pictures: Sequence[Any]) -> None:
    """Refuse what is no RGB picture of one size.

    Raises:
        ConfigError: If the environment draws something else.
    """
    for picture in pictures:
        shape, dtype = np.shape(picture), getattr(picture, "dtype", type(picture))
        if len(shape) != 3 or shape[2] != 3 or dtype != np.uint8 or shape != pictures[0].shape:
            raise ConfigError(
                f"{env_id} must draw arrays of shape (height, width, 3), uint8, all of one size, "
                f"got {dtype} of shape {shape}"
            )
