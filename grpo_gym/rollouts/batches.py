"""Making batches of environments of one kind.

Native environments are made as one vector environment; any other Gymnasium environment is made B
times. Vector environments of others are taken as they are.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from importlib import import_module
from typing import Any, cast

import gymnasium as gym
from gymnasium.envs.registration import load_env_creator
from gymnasium.vector import AutoresetMode, VectorEnv

from grpo_gym.rollouts.env_batch import EnvBatch
from grpo_gym.rollouts.loop_batch import make_loop
from grpo_gym.rollouts.native_batch import EnumeratedBatch, NativeBatch
from grpo_gym.rollouts.vector_batch import VectorBatch, is_vector, make_vector_batch
from grpo_gym.rollouts.workers.batch import WorkerBatch, Workers
from grpo_gym.settings import ConfigError

_ELSEWHERE = (
    ("MiniGrid", "minigrid", "minigrid"),
    ("BabyAI", "minigrid", "minigrid"),
    ("ALE", "ale_py", "ale-py"),
    ("Fetch", "gymnasium_robotics", "gymnasium-robotics"),
    ("HandManipulate", "gymnasium_robotics", "gymnasium-robotics"),
    ("PointMaze", "gymnasium_robotics", "gymnasium-robotics"),
    ("AntMaze", "gymnasium_robotics", "gymnasium-robotics"),
    ("Adroit", "gymnasium_robotics", "gymnasium-robotics"),
    ("FrankaKitchen", "gymnasium_robotics", "gymnasium-robotics"),
    ("Panda", "panda_gym", "panda-gym"),
    ("FlappyBird", "flappy_bird_gymnasium", "flappy-bird-gymnasium"),
    ("highway", "highway_env", "highway-env"),
    ("MiniWorld", "miniworld", "miniworld"),
)
"""How well-known ids begin, the module that registers them, and its project at PyPI."""

EnvSource = str | gym.Env[Any, Any] | VectorEnv[Any, Any, Any] | Callable[..., Any]
"""A registered id, a made environment (copies are made from its spec), a made vector environment
(which is used itself), or a function that makes one of either; see `vector_batch`."""


def make_batch(
    env: EnvSource,
    env_kwargs: Mapping[str, Any] | None,
    num_envs: int,
    workers: Workers | None = None,
) -> EnvBatch:
    """Make B environments of one kind.

    A vector environment that is made, or by a function without `num_envs`, keeps its own B.

    Args:
        env: What makes one.
        env_kwargs: Its arguments; only with an id.
        num_envs: B.
        workers: Processes for environments that are neither native nor a vector environment.

    Raises:
        ConfigError: If the environment cannot be made B times, or its spaces are not supported.
    """
    kwargs = dict(env_kwargs or {})
    if isinstance(env, str):
        if _is_native(env):
            return NativeBatch(_make_native(env, kwargs, num_envs))
        if gym.spec(env.rpartition(":")[2]).entry_point is None:
            with _told_as_config_error(env, kwargs):
                vector_env = gym.make_vec(env, num_envs=num_envs, **kwargs)
            return VectorBatch(vector_env)
    elif kwargs:
        raise ConfigError(
            "env_kwargs must be empty unless env is an id: pass them when making the environment"
        )
    elif is_vector(env):
        return VectorBatch(cast(VectorEnv[Any, Any, Any], env), keep_open=True)
    elif callable(env) and (vector := make_vector_batch(env, num_envs)) is not None:
        return vector
    make = _factory(env, kwargs)
    first = make()
    if is_vector(first):
        return VectorBatch(cast(VectorEnv[Any, Any, Any], first))
    foreign = not isinstance(first, gym.Env)
    if foreign and (hasattr(first, "num_envs") or not hasattr(first, "reset")):
        raise ConfigError(
            "env must make a gymnasium.Env or a gymnasium.vector.VectorEnv, got a "
            f"{type(first).__name__}: pass a function that makes one environment"
        )
    if workers is not None and workers.count:
        return WorkerBatch(first, make, num_envs, workers)
    return make_loop(make, num_envs, first)


def make_enumerated(env_id: str, env_kwargs: Mapping[str, Any], most: int) -> EnumeratedBatch:
    """Make environments, at most `most` of them, that play every possible initial state once.

    Raises:
        ConfigError: If the environment cannot enumerate its initial states.
    """
    with closing(make_batch(env_id, env_kwargs, 1)) as one:
        if not isinstance(one, NativeBatch) or not hasattr(one.env, "count_initial_states"):
            raise ConfigError(f"{env_id} cannot enumerate its initial states")
        num_envs = min(one.env.count_initial_states(), most)
    return EnumeratedBatch(_make_native(env_id, env_kwargs, num_envs))


def _is_native(env_id: str) -> bool:
    """Whether an id has a vector environment in which equal seeds draw one shared trace.

    Raises:
        ConfigError: If it is not registered.
    """
    module, _, name = env_id.rpartition(":")
    try:
        if module:
            import_module(module)
        entry_point = gym.spec(name).vector_entry_point
    except (gym.error.Error, ImportError) as error:
        raise ConfigError(
            f"env must be a registered id, got {env_id!r}: {error}{_hint(module, name)}"
        ) from error
    if entry_point is None:
        return False
    creator = load_env_creator(entry_point) if isinstance(entry_point, str) else entry_point
    return bool(getattr(creator, "metadata", {}).get("shares_outside_world", False))


def _hint(module: str, name: str) -> str:
    """Where an id that is not registered may be found."""
    family = name.replace("/", "-").partition("-")[0]
    package, project = next(
        (known for prefix, *known in _ELSEWHERE if family.startswith(prefix)), ("", "")
    )
    if module:
        return f". Install it: pip install {project}" if module == package else ""
    if package:
        return f" Write {package}:{name} (pip install {project})"
    return (
        " Other packages register their ids when they are imported: write "
        f"PACKAGE:{name} if it is one of them"
    )


def _make_native(env_id: str, kwargs: Mapping[str, Any], num_envs: int) -> VectorEnv[Any, Any, Any]:
    _refuse_reserved(kwargs, ("num_envs", "autoreset_mode", "vectorization_mode"))
    disabled = AutoresetMode.DISABLED
    with _told_as_config_error(env_id, kwargs):
        return gym.make_vec(env_id, num_envs=num_envs, autoreset_mode=disabled, **kwargs)


@contextmanager
def _told_as_config_error(env_id: str, kwargs: Mapping[str, Any]) -> Iterator[None]:
    """Around a constructor of others, which may raise anything, SystemExit too.

    Raises:
        ConfigError: Instead of what it raised.
    """
    try:
        yield
    except (ConfigError, gym.error.Error, KeyboardInterrupt):
        raise
    except BaseException as error:
        raise ConfigError(
            f"{env_id} cannot be made with env_kwargs {dict(kwargs)}: {error!r}"
        ) from error


def _refuse_reserved(kwargs: Mapping[str, Any], reserved: Sequence[str]) -> None:
    """Refuse arguments that are Gymnasium's instead of the environment's.

    Raises:
        ConfigError: If there is one.
    """
    for name in ("id", "self", *reserved):
        if name in kwargs:
            raise ConfigError(
                f"env_kwargs must be the environment's own, got {name}={kwargs[name]!r}, which is "
                "passed to Gymnasium: leave it out"
            )


def _factory(env: EnvSource, kwargs: dict[str, Any]) -> Callable[[], gym.Env[Any, Any]]:
    """A function that makes one environment from a source.

    Raises:
        ConfigError: If the source is none, or cannot be made again.
    """
    if isinstance(env, str):
        _refuse_reserved(kwargs, ("disable_env_checker",))

        def make_by_id() -> gym.Env[Any, Any]:
            with _told_as_config_error(env, kwargs):
                return gym.make(env, disable_env_checker=True, **kwargs)

        return make_by_id
    if not isinstance(env, gym.Env):
        if callable(env):
            return env
        raise ConfigError(
            f"env must be an id, an environment or a function that makes one, got {env!r}"
        )
    if (spec := env.spec) is None:
        raise ConfigError(
            "env must have a spec, from which a group can be made: register it and use gym.make, "
            "or pass a function that makes it"
        )
    # Nobody looks at the copies, and render_mode="human" would open a window for each.
    unseen = {"render_mode": None} if "render_mode" in spec.kwargs else {}

    def make() -> gym.Env[Any, Any]:
        try:
            return gym.make(spec, disable_env_checker=True, **unseen)
        except ValueError as error:
            raise ConfigError(
                f"env cannot be made again from its spec: {error} Pass a function that makes it"
            ) from error

    return make
