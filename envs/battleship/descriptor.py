"""Battleship as the rest of the package knows it."""

from grpo_gym.envs.descriptor import EnvironmentDescriptor

DESCRIPTOR = EnvironmentDescriptor(
    env_id="Battleship-v0",
    package="grpo_gym.envs.battleship",
    episode_length_name="cells",
)
