"""The autoscaler as the rest of the package knows it."""

from grpo_gym.envs.descriptor import EnvironmentDescriptor

DESCRIPTOR = EnvironmentDescriptor(
    env_id="AutoScaler-v0",
    package="grpo_gym.envs.autoscaler",
    has_figures=True,
    episode_length_name="episode_steps",
    table_columns={"violation": ("late %", 100.0), "cost_dollars": ("$/step", 1.0)},
)
