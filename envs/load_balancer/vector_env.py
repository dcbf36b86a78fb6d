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
    metadata: dict[str, Any] = {  # noqa: RUF012
        **LoadBalancerEnv.metadata,
        **NativeVectorEnv.metadata,
    }

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
        """Build the environments; see `NativeVectorEnv` for the other arguments.

        Args:
            num_envs: B.
            preset: As for `LoadBalancerEnv`.
            num_servers: As for `LoadBalancerEnv`.
            render_mode: None or "rgb_array".
            autoreset_mode: When finished environments are reset.
            max_episode_steps: Truncates episodes; None or -1: no limit.
            **overrides: Fields of `LoadBalancerConfig`; `infos` is "basic" unless given.

        Raises:
            ConfigError: If a setting is unknown or makes no sense.
        """
        config = make_config(preset, num_servers, **{"infos": "basic", **overrides})
        super().__init__(config, num_envs, render_mode, autoreset_mode, max_episode_steps)

    @override
    def _state_infos_of_step(self) -> Infos:
        return self.simulator.state_infos() if self.config.infos == "full" else {}
