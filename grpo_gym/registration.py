"""The environments that `import grpo_gym` registers with Gymnasium."""

import gymnasium as gym

_ENVIRONMENTS = {
    "LoadBalancer-v0": (
        "grpo_gym.envs.load_balancer.env:LoadBalancerEnv",
        "grpo_gym.envs.load_balancer.vector_env:LoadBalancerVectorEnv",
    ),
    "Battleship-v0": (
        "grpo_gym.envs.battleship.env:BattleshipEnv",
        "grpo_gym.envs.battleship.vector_env:BattleshipVectorEnv",
    ),
    "AutoScaler-v0": (
        "grpo_gym.envs.autoscaler.env:AutoScalerEnv",
        "grpo_gym.envs.autoscaler.vector_env:AutoScalerVectorEnv",
    ),
}

BASELINE_MODULES = {
    "LoadBalancer-v0": "grpo_gym.envs.load_balancer.baselines",
    "Battleship-v0": "grpo_gym.envs.battleship.baselines",
    "AutoScaler-v0": "grpo_gym.envs.autoscaler.baselines",
}
"""Where each environment's heuristics are: a module with `BASELINES` and `make_baseline`."""

FIGURE_MODULES = {"AutoScaler-v0": "grpo_gym.envs.autoscaler.figures"}
"""Which environments have figures of an episode: a module with `snapshot` and `draw`."""


def register_environments() -> None:
    """Register every environment once; later calls change nothing."""
    for env_id, (entry_point, vector_entry_point) in _ENVIRONMENTS.items():
        if env_id not in gym.registry:
            gym.register(env_id, entry_point=entry_point, vector_entry_point=vector_entry_point)
