"""`LoadBalancer-v0` for many environments at once."""

from typing import Any

from gymnasium.vector import AutoresetMode
from typing_extensions import override

from grpo_gym.envs.batch_simulator import Infos
from grpo_gym.envs.load_balancer.env import TASK, LoadBalancerEnv
from grpo_gym.envs.load_balancer.presets import LoadBalancerConfig, make_config
from grpo_gym.envs.load_balancer.simulator import LoadBalancerSimulator
from grpo_gym.envs.native_vector_env import NativeVectorEnv


class LoadBalancerVectorEnv(NativeVectorEnv):
    """Many `LoadBalancerEnv` in one array program; see there for the task."""

    task = TASK
    config: LoadBalancerConfig
    simulator: LoadBalancerSimulator
    metadata = LoadBalancerEnv.metadata | NativeVectorEnv.metadata

    def __init__(
        self,
        num_envs: int = 1,
        preset: str = "flaky",
        num_servers: int | None = None,
        render_mode: str | None = None,
        autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
        max_episode_steps: int | None = None,
        **overrides: Any,
    ) -> None:
        """Build B = `num_envs` environments.

        `preset`, `num_servers` and the overrides are those of `LoadBalancerEnv`, where `infos` is
        "basic" unless given; `NativeVectorEnv` describes the other arguments.

        Raises:
            ConfigError: If a setting is unknown or makes no sense.
        """
        config = make_config(preset, num_servers, **{"infos": "basic", **overrides})
        super().__init__(config, num_envs, render_mode, autoreset_mode, max_episode_steps)

    @override
    def _state_infos_of_step(self) -> Infos:
        return self.simulator.state_infos() if self.config.infos == "full" else {}
