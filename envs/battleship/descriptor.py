"""Battleship as the rest of the package knows it."""

from grpo_gym.envs.descriptor import EnvironmentDescriptor

DESCRIPTOR = EnvironmentDescriptor(
    env_id="Battleship-v0",
    entry_point="grpo_gym.envs.battleship.env:BattleshipEnv",
    vector_entry_point="grpo_gym.envs.battleship.vector_env:BattleshipVectorEnv",
    presets_module="grpo_gym.envs.battleship.presets",
    baselines_module="grpo_gym.envs.battleship.baselines",
    episode_length_name="cells",
)
