"""The load balancer as the rest of the package knows it."""

from grpo_gym.envs.descriptor import EnvironmentDescriptor

DESCRIPTOR = EnvironmentDescriptor(
    env_id="LoadBalancer-v0",
    package="grpo_gym.envs.load_balancer",
    episode_length_name="episode_length",
    table_columns={"response_time_ms": ("ms", 1.0), "error": ("errors %", 100.0)},
    demonstrations={"tiny-grpo": 3_000},
)
