"""Policies that ship with the package: each is a folder's worth of checkpoints behind one name.

A pretrained policy is a trained `GRPO` model without the optimizer's state: it plays, evaluates and
goes on learning. `router.md` says what it was trained on, and how well it plays.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from grpo_gym.envs.load_balancer.presets import make_config
from grpo_gym.settings import ConfigError, suggest
from grpo_gym.trainers.grpo import GRPO

ENV_ID = "LoadBalancer-v0"
_FOLDER = Path(__file__).parent
_NAMES = ("router",)


def pretrained(name: str = "router", env_kwargs: Mapping[str, Any] | None = None) -> GRPO:
    """A pretrained policy, bound to an environment.

        router = grpo_gym.pretrained("router", env_kwargs={"num_servers": 37})
        action, state = router.predict(observation)

    Args:
        name: "router": routes requests in `LoadBalancer-v0` to any number of servers in any order.
            It has a network for each kind of observation, with or without sizes and weights.
        env_kwargs: The environment's arguments, as for `gym.make`; by default its preset `fleets`.

    Raises:
        ConfigError: If the name is unknown, or the environment's observation is not one that the
            policy knows.
    """
    if name not in _NAMES:
        raise ConfigError(f"there is no pretrained policy {name!r}.{suggest(name, _NAMES)}")
    kwargs = {"preset": "fleets"} if env_kwargs is None else {"preset": "flaky", **env_kwargs}
    return GRPO.load(router_file(kwargs), ENV_ID, env_kwargs=kwargs)


def router_file(env_kwargs: Mapping[str, Any], folder: Path = _FOLDER) -> Path:
    """The file of the network that knows the observation of an environment.

    Args:
        env_kwargs: Arguments of `LoadBalancer-v0`.
        folder: Where the files are.

    Raises:
        ConfigError: If an argument makes no sense, or servers are not observed one by one.
    """
    config = make_config(**env_kwargs)
    if config.observation != "per_server":
        raise ConfigError(
            f'observation must be "per_server" for the policy pretrained:router, got '
            f'"{config.observation}"'
        )
    known = {"sizes": config.observe_size, "weights": config.observe_weights}
    parts = ["router", *[name for name, observed in known.items() if observed]]
    return folder / f"{'-'.join(parts)}.ckpt"
