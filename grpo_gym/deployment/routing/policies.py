"""Policies by name: what `--policy` may be."""

from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

from grpo_gym.deployment.routing.config import RoutingConfig
from grpo_gym.deployment.routing.fleet import Layout
from grpo_gym.deployment.routing.learning import OnlineRanker
from grpo_gym.deployment.routing.rankers import BaselineRanker, NetworkRanker, Ranker
from grpo_gym.deployment.routing.records import Endpoint
from grpo_gym.envs.load_balancer.baselines import BASELINES
from grpo_gym.inference.numpy_policy import NumpyPolicy
from grpo_gym.inference.policy_files import find_policy_file
from grpo_gym.settings import ConfigError, suggest

PRETRAINED = "pretrained:router"
ONLINE = "online"
_NAMES = (PRETRAINED, ONLINE, *(key for key, rule in BASELINES.items() if not rule.privileged))


def make_ranker(name: str, endpoints: Sequence[Endpoint], config: RoutingConfig) -> Ranker:
    """The policy of a name.

    Args:
        name: "pretrained:router", "online", "online:FILE", a baseline of `LoadBalancer-v0`, an
            exported .safetensors file, a checkpoint, or a run's folder.
        endpoints: To be routed to: whether their weights differ decides what a policy observes.
        config: Of the core.

    Raises:
        ConfigError: If there is no such policy, or it observes what the core does not.
        CheckpointError: If a file is damaged, or not ours.
    """
    layout = _offered(endpoints, config)
    if name == PRETRAINED:
        return NetworkRanker(NumpyPolicy.load(_pretrained_file(layout)), name)
    if name == ONLINE or name.startswith(f"{ONLINE}:"):
        online = OnlineRanker(layout)
        if path := name.removeprefix(ONLINE).removeprefix(":"):
            online.load(path)
        return online
    if name in BASELINES:
        return BaselineRanker(name)
    return _trained(find_policy_file(name, hint=suggest(name, _NAMES)), config)


def depends_on_weights(name: str) -> bool:
    """Whether the policy of a name observes weights if they differ."""
    return name == PRETRAINED or name.startswith(ONLINE)


def observes_weights(endpoints: Sequence[Endpoint], config: RoutingConfig) -> bool:
    """Whether policies that can do with or without weights get them."""
    if config.observe_weights is not None:
        return config.observe_weights
    return len({endpoint.weight for endpoint in endpoints}) > 1


def _offered(endpoints: Sequence[Endpoint], config: RoutingConfig) -> Layout:
    return Layout(sizes=config.observe_sizes, weights=observes_weights(endpoints, config))


def _pretrained_file(layout: Layout) -> Path:
    known = {"sizes": layout.sizes, "weights": layout.weights}
    parts = ["router", *[name for name, observed in known.items() if observed]]
    # The package of these files itself would import torch.
    return Path(str(files("grpo_gym.trainers"))) / "pretrained" / f"{'-'.join(parts)}.ckpt"


def _trained(path: Path, config: RoutingConfig) -> NetworkRanker:
    ranker = NetworkRanker(NumpyPolicy.load(path), str(path))
    if ranker.layout.sizes and not config.observe_sizes:
        raise ConfigError(
            f"observe_sizes must be true for {path}, which was trained to see the sizes of "
            "requests: give each request's size to pick, or choose a policy without them"
        )
    return ranker
