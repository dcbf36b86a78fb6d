"""A configuration as the record that the kernels read."""

import numpy as np

from grpo_gym.envs.autoscaler.presets import AutoScalerConfig
from grpo_gym.envs.autoscaler.records import ACTIONS, PARAMETERS, REWARDS


def step_parameters(config: AutoScalerConfig) -> np.ndarray:
    """What the step kernel reads, one `PARAMETERS` record, shape (1,)."""
    parameters = np.zeros(1, PARAMETERS)
    for name in PARAMETERS.names or ():
        value = getattr(config, name, None)
        if isinstance(value, (bool, int, float, tuple)):
            parameters[name] = value
    parameters["action"] = ACTIONS.index(config.action)
    parameters["reward"] = REWARDS.index(config.reward)
    parameters["initial_replicas"] = config.initial_replicas or 0
    batch, timeout, concurrency = config.ladder_positions
    parameters["initial_batch"] = batch
    parameters["initial_timeout"] = timeout
    parameters["initial_concurrency"] = concurrency
    return parameters
