"""The load balancer as the rest of the package knows it."""

from grpo_gym.envs.descriptor import EnvironmentDescriptor

DESCRIPTOR = EnvironmentDescriptor(
    env_id="LoadBalancer-v0",
    entry_point="grpo_gym.envs.load_balancer.env:LoadBalancerEnv",
    vector_entry_point="grpo_gym.envs.load_balancer.vector_env:LoadBalancerVectorEnv",
    presets_module="grpo_gym.envs.load_balancer.presets",
    baselines_module="grpo_gym.envs.load_balancer.baselines",
    episode_length_name="episode_length",
    table_columns={"response_time_ms": ("ms", 1.0), "error": ("errors %", 100.0)},
    demonstrations={"tiny-grpo": 3_000},
)
