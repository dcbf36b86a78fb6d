"""A configuration as the record that the kernels read."""

from typing import Any

import numpy as np

from grpo_gym.envs.autoscaler.presets import AutoScalerConfig
from grpo_gym.envs.autoscaler.records import (
    ACTIONS,
    BATCH_SIZES,
    CONCURRENCIES,
    REWARDS,
    TIMEOUTS_S,
)


def kernel_parameters(config: AutoScalerConfig) -> np.ndarray:
    """All settings that are numbers, and numbers that follow from them, as a record, shape (1,).

    The fields of the record do not depend on the values, so kernels are compiled only once.
    """
    values: dict[str, Any] = {
        **vars(config),
        "action": ACTIONS.index(config.action),
        "reward": REWARDS.index(config.reward),
        "initial_replicas": config.initial_replicas or 0,
        "initial_batch": BATCH_SIZES.index(config.batch_size),
        "initial_timeout": TIMEOUTS_S.index(config.timeout_s),
        "initial_concurrency": CONCURRENCIES.index(config.concurrency),
        "noise_sigma": config.noise,
        "bursts_per_day": config.bursts,
        "steps_per_day": config.steps_per_day,
        "observe_week": config.observe_week,
        "observe_configuration": config.observe_configuration,
    }
    del values["demand_csv"]
    fields = [(name, np.asarray(value).dtype, np.shape(value)) for name, value in values.items()]
    return np.array([tuple(values.values())], np.dtype(fields))
