"""The autoscaler as the rest of the package knows it."""

from grpo_gym.envs.descriptor import EnvironmentDescriptor

DESCRIPTOR = EnvironmentDescriptor(
    env_id="AutoScaler-v0",
    entry_point="grpo_gym.envs.autoscaler.env:AutoScalerEnv",
    vector_entry_point="grpo_gym.envs.autoscaler.vector_env:AutoScalerVectorEnv",
    presets_module="grpo_gym.envs.autoscaler.presets",
    baselines_module="grpo_gym.envs.autoscaler.baselines",
    figures_module="grpo_gym.envs.autoscaler.figures",
    episode_length_name="episode_steps",
    table_columns={"violation": ("late %", 100.0), "cost_dollars": ("$/step", 1.0)},
)
