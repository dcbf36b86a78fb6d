"""Nonsense is refused with one error that names the setting, the rule and the value."""

from typing import Any

import gymnasium as gym
import pytest

from grpo_gym.envs.load_balancer.presets import PRESETS, make_config
from grpo_gym.envs.load_balancer.vector_env import LoadBalancerVectorEnv
from grpo_gym.settings import ConfigError, to_mapping

NAN = float("nan")
INFINITY = float("inf")

NONSENSE: list[tuple[dict[str, Any], str]] = [
    ({"utilization": 0.5}, r"'utilization' is not a setting.*Did you mean 'utilisation'\?"),
    ({"preset": "flakey"}, r"preset must be .*'flakey'.*Did you mean 'flaky'\?"),
    ({"preset": None}, "preset must be a known name, got None"),
    ({"preset": 3}, "preset must be a known name, got 3"),
    ({"num_servers": 0}, "num_servers must be an integer >= 1, got 0"),
    ({"num_servers": -2}, "num_servers must be an integer >= 1, got -2"),
    ({"num_servers": 2.5}, "num_servers must be an integer >= 1, got 2.5"),
    ({"num_servers": NAN}, "num_servers must be an integer >= 1, got nan"),
    ({"num_servers": INFINITY}, "num_servers must be an integer >= 1, got inf"),
    ({"num_servers": "four"}, "num_servers must be an integer >= 1, got 'four'"),
    ({"num_servers": True}, "num_servers must be an integer >= 1, got True"),
    ({"num_servers": 3, "service_rates": (1.0, 2.0)}, "num_servers = 3 entries, got 2"),
    ({"service_rates": ()}, "service_rates must name at least one server"),
    ({"service_rates": (1.0, -1.0)}, r"service_rates\[1\] must be > 0.*got -1.0"),
    ({"service_rates": (1.0, 0.0)}, r"service_rates\[1\] must be > 0.*got 0.0"),
    ({"service_rates": 1.0}, r"service_rates must be a list, got 1.0: write \[1.0\]"),
    ({"utilisation": -0.1}, "utilisation must be > 0.*got -0.1"),
    ({"utilisation": 0.0}, "utilisation must be > 0.*got 0.0"),
    ({"utilisation": NAN}, "utilisation must be a finite number, got nan"),
    ({"utilisation": "high"}, "utilisation must be a number, got 'high'"),
    ({"episode_length": 0}, "episode_length must be >= 1, got 0"),
    ({"episode_length": 1.5}, "episode_length must be an integer, got 1.5"),
    ({"dynamics": "stack"}, "dynamics must be one of .*got 'stack'"),
    ({"arrival_process": "poison"}, "arrival_process must be .*Did you mean 'poisson'"),
    ({"size_distribution": "uniform"}, "size_distribution must be one of .*got 'uniform'"),
    ({"size_distribution": "hyperexponential", "size_scv": 0.5}, "size_scv must be >= 1.*got 0.5"),
    ({"size_scv": -1.0}, "size_scv must be >= 0.*got -1.0"),
    ({"size_shape": 1.0}, "size_shape must be > 1.*got 1.0"),
    ({"size_mean": 0.0}, "size_mean must be > 0.*got 0.0"),
    ({"diurnal_amplitude": 1.1}, "diurnal_amplitude must be .*<= 1.*got 1.1"),
    ({"burst_ratio": 0.5}, "burst_ratio must be >= 1.*got 0.5"),
    ({"base_latency_ms": (1.0, 2.0)}, r"base_latency_ms must be .*one per server \(4\), got 2"),
    ({"error_rates": 1.5}, "error_rates must be .*<= 1.*got 1.5"),
    ({"error_rates": (0.1,) * 5}, r"error_rates must be one number or one per server \(4\), got 5"),
    ({"metrics_weight": 0.0}, "metrics_weight must be > 0.*got 0.0"),
    ({"slow_factor": 0.9}, "slow_factor must be >= 1.*got 0.9"),
    ({"mean_time_to_failure_ms": 0.0}, "mean_time_to_failure_ms must be > 0.*got 0.0"),
    ({"staleness_ms": -1.0}, "staleness_ms must be >= 0.*got -1.0"),
    ({"fault_mix": {"slwo": 1.0}}, r"fault_mix.slwo must be one of .*Did you mean 'slow'\?"),
    ({"fault_mix": {"slow": -1.0}}, r"fault_mix.slow must be >= 0, got -1.0"),
    ({"fault_mix": {"slow": NAN}}, r"fault_mix.slow must be a finite number, got nan"),
    ({"fault_mix": {"slow": 0.0}}, "fault_mix must have a finite weight above 0"),
    ({"fault_mix": {}}, "fault_mix must have a finite weight above 0"),
    ({"fault_schedule": ((4, "slow", 0, 5),)}, "must name a server from 0 to 3, got 4"),
    ({"fault_schedule": ((0, "slow", 5, 5),)}, "must end after it begins"),
    ({"fault_schedule": ((0, "slow", -1, 5),)}, "must end after it begins, at or after request 0"),
    ({"fault_schedule": ((0, "slow", 0, 9), (0, "down", 8, 12))}, "must not overlap"),
    ({"fault_schedule": ((0, "broken", 0, 9),)}, r"fault_schedule\[0\]\[1\] must be one of"),
    ({"fault_schedule": ((0, "slow", 0),)}, r"fault_schedule\[0\] must be a list of 4 values"),
    ({"dynamics": "decaying_load", "reward": "park"}, 'reward must not be "park"'),
    ({"reward": "throughput"}, "reward must be one of .*got 'throughput'"),
    ({"latency_scale_ms": 0}, "latency_scale_ms must be > 0.*got 0"),
    ({"observe_size": 1}, "observe_size must be true or false, got 1"),
    ({"infos": "all"}, "infos must be one of 'basic', 'full', got 'all'"),
]


@pytest.mark.parametrize(
    ("settings", "message"), NONSENSE, ids=[str(settings) for settings, _ in NONSENSE]
)
def test_nonsense_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        gym.make("LoadBalancer-v0", **settings)
    assert "\n" not in str(caught.value)
    with pytest.raises(ConfigError, match=message):
        LoadBalancerVectorEnv(2, **settings)


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("num_servers", [None, 1, 7])
def test_presets_have_any_number_of_servers(preset: str, num_servers: int | None) -> None:
    config = make_config(preset, num_servers)
    assert num_servers in (None, config.num_servers)
    assert make_config("flaky", **to_mapping(config)) == config


def test_values_as_a_command_line_gives_them() -> None:
    given: dict[str, Any] = {"num_servers": 10.0, "utilisation": "0.5", "episode_length": "1e3"}
    config = make_config("park", **given)
    assert (config.num_servers, config.utilisation, config.episode_length) == (10, 0.5, 1_000)
    assert make_config(service_rates=[1, 2, 3]).service_rates == (1.0, 2.0, 3.0)
    assert make_config("park", service_rates=[1, 2, 3]).num_servers == 3
