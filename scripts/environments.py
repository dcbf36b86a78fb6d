"""Try the environments of others as a new user does: defaults, little time, unseen episodes.

Each is trained for some seconds, saved, loaded, trained further, asked for an action, evaluated
beside random actions on the same unseen episodes, and played to a file. What is not installed is
left out; an interrupted run resumes where it stopped.

    python scripts/environments.py --out docs/results/environments.json
"""

import tempfile
import time
import warnings
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import tyro

from grpo_gym import GRPO
from grpo_gym.cli import play
from grpo_gym.evaluation.episodes import evaluate
from grpo_gym.rollouts.batches import EnvSource, make_batch
from grpo_gym.trainers import experiments
from grpo_gym.trainers.experiments import EVALUATION_SEED
from grpo_gym.trainers.iteration import IterationStats
from grpo_gym.trainers.named_policies import baseline_action_function

IMAGES = {"num_groups": 2, "group_size": 8, "max_episode_steps": 64, "minibatch_size": 256}
"""Iterations of 1,024 images."""
SLOW = {"num_groups": 1, "group_size": 4}
"""Iterations of a few episodes, for environments of some hundred steps a second."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """The command line."""

    out: Path
    """File of the results; existing results are not measured again."""
    seconds: float = 30.0
    """Of processor time, after which a training takes no further iteration."""
    only: tuple[str, ...] = ()
    """Names of environments; by default all."""


@dataclass(frozen=True)
class Trial:
    """What is tried with an environment."""

    env: EnvSource
    """An id, or a function that makes one."""
    policy: str = "mlp"
    """The network."""
    needs: tuple[str, ...] = ()
    """Packages, imported first."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Of GRPO, where the defaults are not used."""
    env_kwargs: Mapping[str, Any] = field(default_factory=dict)
    """Of the environment."""
    steps: int = 30_000
    """Of training at most."""
    episodes: int = 20
    """Unseen ones that the trained policy and random actions play."""


def minigrid(env_id: str) -> gym.Env[Any, Any]:
    """The picture of a grid, without the text of its mission."""
    wrappers = import_module("minigrid.wrappers")
    wrapped: gym.Env[Any, Any] = wrappers.ImgObsWrapper(gym.make(env_id))
    return wrapped


def minigrid_parts(env_id: str) -> gym.Env[Any, Any]:
    """The picture of a grid and the direction one looks in."""
    return gym.wrappers.FilterObservation(gym.make(env_id), ["image", "direction"])


def minatar(env_id: str) -> gym.Env[Any, Any]:
    """A small game, which its package registers only when it is asked."""
    if env_id not in gym.registry:
        import_module("minatar.gym").register_envs()
    return gym.make(env_id)


def atari(env_id: str) -> gym.Env[Any, Any]:
    """Four grey frames."""
    env = gym.wrappers.AtariPreprocessing(gym.make(env_id, frameskip=1))
    return gym.wrappers.FrameStackObservation(env, 4)


def one_objective(env_id: str) -> gym.Env[Any, Any]:
    """The sum of several objectives as the reward."""
    wrappers = import_module("mo_gymnasium.wrappers")
    wrapped: gym.Env[Any, Any] = wrappers.LinearReward(gym.make(env_id))
    return wrapped


def pooled(env_id: str, num_envs: int, seed: list[int]) -> Any:
    """As many environments in C++, made with these seeds."""
    return import_module("envpool").make_gymnasium(env_id, num_envs=num_envs, seed=seed)


def pooled_cartpole(num_envs: int, seed: list[int]) -> Any:
    """CartPole of envpool."""
    return pooled("CartPole-v1", num_envs, seed)


def pooled_catch(num_envs: int, seed: list[int]) -> Any:
    """Catch of DeepMind's bsuite in envpool."""
    return pooled("Catch-v0", num_envs, seed)


TRIALS: dict[str, Trial] = {
    **{
        env_id: Trial(env_id)
        for env_id in (
            "CartPole-v1",
            "Acrobot-v1",
            "MountainCar-v0",
            "MountainCarContinuous-v0",
            "Pendulum-v1",
            "FrozenLake-v1",
            "Taxi-v4",
            "Blackjack-v1",
        )
    },
    # Random walks may take more than the 50,000 steps after which an episode counts as endless.
    "CliffWalking-v1": Trial("CliffWalking-v1", env_kwargs={"max_episode_steps": 200}),
    "LunarLander-v3": Trial("LunarLander-v3", needs=("Box2D",)),
    "BipedalWalker-v3": Trial("BipedalWalker-v3", needs=("Box2D",)),
    "CarRacing-v3": Trial(
        "CarRacing-v3",
        "cnn",
        ("Box2D",),
        {**IMAGES, **SLOW, "max_episode_steps": 32},
        {"max_episode_steps": 100},
        steps=512,
        episodes=3,
    ),
    **{
        env_id: Trial(env_id, needs=("mujoco",))
        for env_id in (
            "InvertedPendulum-v5",
            "InvertedDoublePendulum-v5",
            "Reacher-v5",
            "Hopper-v5",
        )
    },
    **{
        env_id: Trial(env_id, needs=("mujoco",), settings={"max_episode_steps": 100}, episodes=5)
        for env_id in ("HalfCheetah-v5", "Swimmer-v5")
    },
    "MiniGrid-Empty-5x5-v0, image": Trial(
        partial(minigrid, "MiniGrid-Empty-5x5-v0"), "cnn", ("minigrid",), {"max_episode_steps": 100}
    ),
    "MiniGrid-Empty-5x5-v0, image and direction": Trial(
        partial(minigrid_parts, "MiniGrid-Empty-5x5-v0"),
        "combined",
        ("minigrid",),
        {"max_episode_steps": 100},
    ),
    "MiniGrid-DoorKey-5x5-v0, image": Trial(
        partial(minigrid, "MiniGrid-DoorKey-5x5-v0"), "cnn", ("minigrid",), {}
    ),
    "MinAtar/Breakout-v1": Trial(partial(minatar, "MinAtar/Breakout-v1"), "cnn", ("minatar",)),
    "MinAtar/SpaceInvaders-v1": Trial(
        partial(minatar, "MinAtar/SpaceInvaders-v1"), "cnn", ("minatar",)
    ),
    "ALE/Pong-v5, grey": Trial(
        partial(atari, "ALE/Pong-v5"), "cnn", ("ale_py", "cv2"), IMAGES, steps=4_096, episodes=3
    ),
    "ALE/Breakout-v5": Trial(
        "ALE/Breakout-v5", "cnn", ("ale_py",), {**IMAGES, **SLOW}, steps=1_024, episodes=3
    ),
    "FetchReach-v4": Trial("FetchReach-v4", needs=("gymnasium_robotics",)),
    "PointMaze_UMaze-v3": Trial(
        "PointMaze_UMaze-v3", needs=("gymnasium_robotics",), settings={"max_episode_steps": 100}
    ),
    "AdroitHandHammer-v1": Trial(
        "AdroitHandHammer-v1", needs=("gymnasium_robotics",), settings=SLOW, episodes=5
    ),
    "FlappyBird-v0": Trial("FlappyBird-v0", needs=("flappy_bird_gymnasium",)),
    "mo-mountaincar-v0, summed": Trial(
        partial(one_objective, "mo-mountaincar-v0"), needs=("mo_gymnasium",)
    ),
    "highway-fast-v0": Trial(
        "highway-fast-v0", needs=("highway_env",), settings=SLOW, steps=500, episodes=5
    ),
    "parking-v0": Trial(
        "parking-v0", needs=("highway_env",), settings=SLOW, steps=2_000, episodes=5
    ),
    "envpool CartPole-v1": Trial(pooled_cartpole, needs=("envpool",)),
    "envpool Catch-v0": Trial(pooled_catch, needs=("envpool",)),
}


def main() -> None:
    """Try what has not been tried."""
    options = tyro.cli(Options, description=__doc__)
    names = options.only or tuple(TRIALS)
    trials = {
        name: partial(try_out, name, options.seconds)
        for name in names
        if all(find_spec(module) for module in TRIALS[name].needs)
    }
    experiments.measure(options.out, trials, processes=1)


def try_out(name: str, seconds: float) -> dict[str, Any]:
    """What each of the things that a user does leads to, by their names: "done" or an error."""
    warnings.simplefilter("ignore")
    trial = TRIALS[name]
    for module in trial.needs:
        import_module(module)
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        course = _Course(trial, Path(folder) / "policy.ckpt", seconds, results)
        for step in (course.train, course.save_and_load, course.resume, course.predict):
            _attempt(step, results)
        _attempt(course.evaluate, results)
        if isinstance(trial.env, str):
            _attempt(course.play_to_a_file, results)
    return results


def _attempt(step: Callable[[], None], results: dict[str, Any]) -> None:
    name = step.__name__.replace("_", " ")
    try:
        step()
    except Exception as error:  # environments of others may raise anything
        results[name] = f"{type(error).__name__}: {error}"
    else:
        results[name] = "done"


@dataclass
class _Course:
    """The steps, one after the other."""

    trial: Trial
    path: Path
    seconds: float
    results: dict[str, Any]
    model: GRPO | None = None

    def train(self) -> None:
        trial, begin = self.trial, time.process_time()

        def in_time(model: GRPO, stats: IterationStats) -> bool:
            return time.process_time() - begin < self.seconds

        self.model = GRPO(trial.policy, trial.env, env_kwargs=trial.env_kwargs, **trial.settings)
        self.model.learn(trial.steps, callback=in_time)
        self.results["steps"] = self.model.num_steps
        self.results["cpu_seconds"] = round(time.process_time() - begin, 1)

    def save_and_load(self) -> None:
        trained = self._trained()
        trained.save(self.path)
        loaded = self._load()
        if loaded.weights_sha256() != trained.weights_sha256():
            raise RuntimeError("the loaded policy has other weights")

    def resume(self) -> None:
        loaded = self._load()
        steps = loaded.num_steps
        loaded.learn(1)
        if loaded.num_steps <= steps:
            raise RuntimeError("no step was taken")
        loaded.close()

    def predict(self) -> None:
        model = self._trained()
        action, _ = model.predict(model.observation_space.sample())
        if not model.action_space.contains(_as_declared(action, model.action_space)):
            raise RuntimeError(f"{action!r} is no action")

    def evaluate(self) -> None:
        trained = self._trained().evaluate(self.trial.episodes, seed=EVALUATION_SEED)
        with closing(
            make_batch(self.trial.env, self.trial.env_kwargs, self.trial.episodes)
        ) as batch:
            chance = baseline_action_function("random", str(self.trial.env), batch)
            random = evaluate(chance, batch, self.trial.episodes, EVALUATION_SEED)
        difference = trained.difference(random).summary()["return"]
        self.results["return"] = round(trained.mean_return, 3)
        self.results["random_return"] = round(random.mean_return, 3)
        self.results["difference_ci95"] = [round(end, 3) for end in difference["ci95"]]

    def play_to_a_file(self) -> None:
        picture = self.path.with_name("played.gif")
        arguments = ["--policy", str(self.path), "--record", str(picture), "--steps", "20"]
        status = play.main(arguments)
        if status or not picture.stat().st_size:
            raise RuntimeError(f"play ended with status {status}")

    def _trained(self) -> GRPO:
        if self.model is None:
            raise RuntimeError("there is no policy")
        return self.model

    def _load(self) -> GRPO:
        env = None if isinstance(self.trial.env, str) else self.trial.env
        return GRPO.load(self.path, env=env)


def _as_declared(action: Any, space: gym.Space[Any]) -> Any:
    """A predicted action in the dtype of its space."""
    return np.asarray(action, space.dtype) if isinstance(space, gym.spaces.Box) else action


if __name__ == "__main__":
    main()
