"""Routing rules in common use, with a trained model's `predict`, to compare policies with.

They read the metrics that the policy observes. The privileged ones also read the simulator.
"""

from grpo_gym.envs.baseline import baseline_maker
from grpo_gym.envs.load_balancer.routers.connections import (
    HaproxyLeastConnections,
    LeastConnections,
    NginxLeastConnections,
    PowerOfTwo,
    ShortestExpectedDelay,
)
from grpo_gym.envs.load_balancer.routers.envoy import EnvoyLeastRequest, OutlierEjection
from grpo_gym.envs.load_balancer.routers.latencies import C3, PeakEwma, PeakEwmaP2c
from grpo_gym.envs.load_balancer.routers.prequal import Prequal
from grpo_gym.envs.load_balancer.routers.privileged import (
    EarliestCompletion,
    LeastTimeLeft,
    LeastWork,
    Oracle,
)
from grpo_gym.envs.load_balancer.routers.reports import ClientSideWeightedRoundRobin
from grpo_gym.envs.load_balancer.routers.router import Router
from grpo_gym.envs.load_balancer.routers.turns import (
    Random,
    RoundRobin,
    WeightedRandom,
    WeightedRoundRobin,
)

_ROUTERS: tuple[type[Router], ...] = (
    Random,
    RoundRobin,
    WeightedRandom,
    WeightedRoundRobin,
    ClientSideWeightedRoundRobin,
    LeastConnections,
    PowerOfTwo,
    ShortestExpectedDelay,
    EnvoyLeastRequest,
    HaproxyLeastConnections,
    NginxLeastConnections,
    OutlierEjection,
    PeakEwma,
    PeakEwmaP2c,
    C3,
    Prequal,
    LeastWork,
    LeastTimeLeft,
    EarliestCompletion,
    Oracle,
)
BASELINES: dict[str, type[Router]] = {router.name: router for router in _ROUTERS}
make_baseline = baseline_maker(BASELINES)
