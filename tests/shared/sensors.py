"""What sensors would tell of a simulated cluster of AutoScaler-v0."""

from grpo_gym.envs.autoscaler.env import AutoScalerEnv
from grpo_gym.envs.autoscaler.measured import MEASUREMENTS
from grpo_gym.envs.autoscaler.records import METRICS


def measurements(env: AutoScalerEnv) -> dict[str, float]:
    """The measurements of the last step, by name."""
    simulator = env.simulator
    values = dict(zip(METRICS, simulator.measured()[0].tolist(), strict=True))
    values |= {name: float(simulator.clusters[0][name]) for name in ("running", "pending")}
    assert set(values) == set(MEASUREMENTS)
    return values
