"""Distributions in place of settings: what they draw, and which are refused."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from grpo_gym.cli.options import parse_pairs
from grpo_gym.envs.load_balancer.distributions import draw, is_law, parse
from grpo_gym.envs.load_balancer.fleets import draw_config
from grpo_gym.envs.load_balancer.presets import make_config
from grpo_gym.settings import ConfigError, load_yaml, save_yaml, to_mapping


def draws(law: Any, count: int = 20_000, *, whole: bool = False, name: str = "x") -> list[Any]:
    distribution = parse(name, law)
    assert is_law(distribution)
    return [draw(distribution, name, seed, servers=None, whole=whole) for seed in range(count)]


def assert_mean(values: list[float], expected: float) -> None:
    error = np.std(values) / math.sqrt(len(values))
    assert abs(np.mean(values) - expected) < 4 * error, (np.mean(values), expected, error)


def test_uniform() -> None:
    values = draws("uniform 0.4 0.85")
    assert 0.4 <= min(values) < 0.4005
    assert 0.8495 < max(values) <= 0.85
    assert_mean(values, 0.625)
    assert_mean([(value - 0.625) ** 2 for value in values], 0.45**2 / 12)
    assert set(draws("uniform -3 -3", 10)) == {-3.0}
    assert parse("x", "uniform 1e-3 1e3") == parse("x", "uniform 0.001 1000")


def test_loguniform() -> None:
    values = draws("loguniform 0.5 8")
    assert 0.5 <= min(values) < 0.502
    assert 7.98 < max(values) <= 8.0
    logarithms = [math.log2(value) for value in values]
    assert_mean(logarithms, 1.0)
    assert_mean([(value - 1.0) ** 2 for value in logarithms], 16 / 12)


def test_whole_numbers_reach_both_bounds() -> None:
    counts = np.bincount(draws("uniform 2 6", whole=True))
    assert counts[:2].sum() == 0
    assert len(counts) == 7
    assert np.abs(counts[2:] / 20_000 - 0.2).max() < 4 * math.sqrt(0.16 / 20_000)
    counts = np.bincount(draws("loguniform 2 24", whole=True))
    assert len(counts) == 25
    for number in range(2, 25):  # each in proportion to the logarithm it covers
        share = math.log((number + 1) / number) / math.log(25 / 2)
        assert abs(counts[number] / 20_000 - share) < 4.5 * math.sqrt(share / 20_000)
    assert set(draws("uniform 5 5", 10, whole=True)) == {5}


def test_choice() -> None:
    values = draws("choice pareto 3 null 0.5 true")
    for option in ("pareto", 3, None, 0.5, True):
        share = values.count(option) / 20_000
        assert abs(share - 0.2) < 4 * math.sqrt(0.16 / 20_000), (option, share)


def test_one_of_and_its_weights() -> None:
    values = draws({"one_of": ["uniform 0 1", 5.0], "weights": [0.7, 0.3]})
    fives = values.count(5.0)
    assert abs(fives / 20_000 - 0.3) < 4 * math.sqrt(0.21 / 20_000)
    assert_mean([value for value in values if value != 5.0], 0.5)
    assert set(draws({"one_of": [1, 2], "weights": [0, 1]}, 100)) == {2}
    nested = draws({"one_of": [{"one_of": [1, 2]}, "choice 3 4"]})
    assert sorted(set(nested)) == [1, 2, 3, 4]
    assert abs(nested.count(1) / 20_000 - 0.25) < 4 * math.sqrt(0.19 / 20_000)


def test_each_server_its_own_or_all_the_same() -> None:
    own = parse("x", "uniform 1 2")
    both = parse("x", {"one_of": ["uniform 1 2", 1.5]})
    values = [draw(own, "x", seed, servers=3, whole=False) for seed in range(4_000)]
    assert all(len(set(row)) == 3 for row in values)
    correlations = np.corrcoef(np.array(values).T)[np.triu_indices(3, 1)]
    assert np.abs(correlations).max() < 4 / math.sqrt(4_000)
    kinds = [draw(both, "x", seed, servers=3, whole=False) for seed in range(100)]
    assert all(row == 1.5 or len(set(row)) == 3 for row in kinds)
    assert 20 < kinds.count(1.5) < 80


def test_names_and_seeds_have_streams_of_their_own() -> None:
    a, b = draws("uniform 0 1", 2_000, name="a"), draws("uniform 0 1", 2_000, name="b")
    assert a == draws("uniform 0 1", 2_000, name="a")
    assert abs(np.corrcoef(a, b)[0, 1]) < 4 / math.sqrt(2_000)
    assert abs(np.corrcoef(a[1:], a[:-1])[0, 1]) < 4 / math.sqrt(2_000)


@pytest.mark.parametrize(
    "value", [3, 0.5, "poisson", None, True, {"down": 1.0}, (1, 2), [1, 2], "a b"]
)
def test_plain_values_are_no_distributions(value: Any) -> None:
    assert parse("x", value) is value


NONSENSE: list[tuple[dict[str, Any], str]] = [
    ({"utilisation": "loguniform 0 1"}, "must have bounds above 0, got 'loguniform 0 1'"),
    ({"utilisation": "uniform 2 1"}, "utilisation must have two bounds, the lower first"),
    ({"utilisation": "uniform 1 2 3"}, "utilisation must have two bounds"),
    ({"utilisation": "uniform low high"}, "utilisation must have two bounds"),
    ({"utilisation": "uniform nan 1"}, "utilisation must have two bounds"),
    ({"utilisation": "uniform 0.1 inf"}, "utilisation must have two bounds"),
    ({"utilisation": "uniform true 2"}, "utilisation must have two bounds"),
    ({"utilisation": "uniform"}, "utilisation must be a number, got 'uniform'"),
    ({"utilisation": "normal 0 1"}, "utilisation must be a number, got 'normal 0 1'"),
    ({"arrival_process": "choice"}, "arrival_process must be one of .*got 'choice'"),
    ({"utilization": "uniform 0.4 0.8"}, r"'utilization' is not a setting .*'utilisation'\?"),
    ({"episode_length": "uniform 10 20"}, "episode_length must be the same in all episodes"),
    ({"observe_size": "choice true false"}, "observe_size must be the same in all episodes"),
    ({"num_balancers": "uniform 0 4"}, "num_balancers must be >= 1, got 0"),
    (
        {"num_balancers": "choice 1 4", "staleness_ms": 5.0},
        "staleness_ms must be 0.0 with several balancers",
    ),
    ({"max_servers": "uniform 2 4"}, "max_servers must be the same in all episodes"),
    ({"utilisation": "uniform 0 0.8"}, "utilisation must be > 0, got 0.0"),
    ({"error_rates": "uniform 0.1 1.5"}, r"error_rates\[0\] must be <= 1, got 1.5"),
    ({"workers": "uniform 1.5 4"}, r"workers\[0\] must be an integer, got 1.5"),
    ({"workers": "choice 1 two"}, r"workers\[0\] must be an integer, got 'two'"),
    ({"connection_limit": "choice null 4"}, r"connection_limit\[0\] must be an integer, got None"),
    ({"arrival_process": "choice poisson burst"}, "arrival_process must be one of .*got 'burst'"),
    ({"fault_mix": {"one_of": [{"down": 1}, {"up": 1}]}}, "fault_mix.up must be one of"),
    ({"utilisation": {"one_of": []}}, "utilisation must have a list one_of"),
    ({"utilisation": {"one_of": "uniform 0 1"}}, "utilisation must have a list one_of"),
    ({"utilisation": {"one_of": [0.5], "weight": [1]}}, "utilisation must have a list one_of"),
    ({"utilisation": {"one_of": [0.5], "weights": [1, 2]}}, "one weight >= 0 for each"),
    ({"utilisation": {"one_of": [0.5, 0.6], "weights": [1, -1]}}, "one weight >= 0 for each"),
    ({"utilisation": {"one_of": [0.5, 0.6], "weights": [0, 0]}}, "finite sum above 0"),
    ({"utilisation": {"one_of": [0.5, "uniform 2 1"]}}, "utilisation must have two bounds"),
    ({"size_scv": "uniform 0.5 4", "size_distribution": "choice lognormal hyperexponential"},
     "size_scv must be >= 1 with hyperexponential sizes, got 0.5"),
    ({"num_servers": "uniform 0 4"}, "num_servers must have whole bounds from 1 to 10,000"),
    ({"num_servers": "uniform 2 4.5"}, "num_servers must have whole bounds from 1 to 10,000"),
    ({"num_servers": "choice 2 many"}, "num_servers must have whole bounds from 1 to 10,000"),
    ({"num_servers": "uniform 2 1e9"}, "num_servers must have whole bounds from 1 to 10,000"),
    ({"num_servers": 20_000}, "num_servers must be at most 10,000, got 20000"),
    ({"preset": "fleets", "max_servers": 10**9}, "max_servers must be at most 10,000"),
    ({"preset": "fleets", "max_servers": None}, "num_servers or max_servers must come with preset"),
    ({"num_servers": "uniform 2 5", "max_servers": 4}, "max_servers must be at least .*5, got 4"),
    ({"num_servers": "uniform 2 5", "service_rates": (1, 2, 3)}, "num_servers = 5 entries"),
    ({"preset": "fleets", "workers": (1, 2)}, r"one number or one per server \(24\)"),
    ({"num_servers": 3, "service_rates": {"one_of": [[1, 2], [3, 4]]}}, "lists of 3 rates"),
    ({"preset": "fleets", "fleet_seed": -1}, "fleet_seed must be >= 0, got -1"),
    ({"preset": "fleets", "fleet_seed": "uniform 1 2"}, "fleet_seed must be an integer"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("settings", "message"), NONSENSE, ids=[str(settings) for settings, _ in NONSENSE]
)
def test_nonsense_is_refused_before_anything_is_drawn(
    settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        make_config(**settings)
    assert "\n" not in str(caught.value)


EVERYTHING: dict[str, Any] = {
    "preset": "fleets",
    "num_servers": "loguniform 2 9",
    "max_servers": 12,
    "workers": "choice 1 2 4",
    "weights": {"one_of": [None, "loguniform 0.5 2"]},
    "connection_limit": {"one_of": [None, "uniform 5 9"]},
    "timeout_ms": "choice null 200",
    "base_latency_ms": "uniform 0 3",
    "latency_per_request_ms": "uniform 0 0.5",
    "error_rates": "loguniform 0.001 0.1",
    "size_mean": "loguniform 5 50",
    "size_shape": "uniform 1.2 3",
    "burst_ratio": "uniform 1 8",
    "fault_mix": {"one_of": [{"degraded": 1.0}, {"down": 1.0, "slow": 2.0}]},
    "slow_factor": "uniform 2 9",
    "integer_times": "choice true false",
    "metrics_weight": "uniform 0.1 0.5",
}
"""Distributions of all kinds."""


def test_what_is_drawn_is_within_bounds_and_differs() -> None:
    config = make_config(**EVERYTHING)
    fleets = [draw_config(config, seed) for seed in range(300)]
    assert {fleet.num_servers for fleet in fleets} == set(range(2, 10))
    assert {fleet.server_slots for fleet in fleets} == {12}
    for fleet in fleets:
        assert not fleet.distributions
        assert isinstance(fleet.workers, tuple)
        assert len(fleet.workers) == fleet.num_servers
        assert set(fleet.workers) <= {1, 2, 4}
        if isinstance(fleet.connection_limit, tuple):
            assert all(5 <= limit <= 9 for limit in fleet.connection_limit)
    limits = [fleet.connection_limit for fleet in fleets]
    assert 0 < sum(limit is None for limit in limits) < 300
    reached = {limit for each in limits if isinstance(each, tuple) for limit in each}
    assert reached == {5, 6, 7, 8, 9}
    assert {len(fleet.fault_mix) for fleet in fleets} == {1, 2}
    assert {fleet.integer_times for fleet in fleets} == {True, False}
    assert {fleet.timeout_ms for fleet in fleets} == {None, 200.0}
    equal_rates = [len(set(fleet.service_rates)) == 1 for fleet in fleets]
    assert 50 < sum(equal_rates) < 130  # 30 %


def test_one_setting_leaves_the_other_draws_alone() -> None:
    plain, other = make_config("fleets"), make_config("fleets", workers="uniform 1 3")
    changed = make_config("fleets", utilisation="uniform 0.1 0.2")
    for seed in range(30):
        fleet = draw_config(plain, seed)
        assert draw_config(other, seed).service_rates == fleet.service_rates
        assert draw_config(changed, seed).service_rates == fleet.service_rates
        assert draw_config(changed, seed).arrival_process == fleet.arrival_process
        assert draw_config(other, seed).utilisation == fleet.utilisation


def test_settings_of_a_preset_are_repeated_for_the_largest_number() -> None:
    config = make_config("tiny-grpo", num_servers="uniform 1 6", fault_schedule=())
    assert config.server_slots == 6
    latencies = (20.0, 40.0, 80.0, 25.0, 20.0, 40.0)
    sizes = set()
    for seed in range(50):
        fleet = draw_config(config, seed)
        sizes.add(fleet.num_servers)
        assert fleet.base_latency_ms == latencies[: fleet.num_servers]
    assert sizes == set(range(1, 7))
    assert make_config("fleets", num_servers="uniform 30 40").server_slots == 40
    lists = {"one_of": [[1, 2, 3], [4, 5, 6]]}
    config = make_config("flaky", num_servers="uniform 2 3", service_rates=lists)
    rates = {draw_config(config, seed).service_rates for seed in range(50)}
    assert rates == {(1.0, 2.0), (4.0, 5.0), (1.0, 2.0, 3.0), (4.0, 5.0, 6.0)}


def test_a_config_file_and_back(tmp_path: Path) -> None:
    config = make_config(**EVERYTHING)
    save_yaml({"env_kwargs": EVERYTHING}, tmp_path / "settings.yaml")
    again = load_yaml(tmp_path / "settings.yaml")["env_kwargs"]
    assert make_config(**again) == config
    assert make_config("flaky", **to_mapping(config)) == config
    save_yaml(to_mapping(config), tmp_path / "config.yaml")
    assert make_config("flaky", **load_yaml(tmp_path / "config.yaml")) == config
    (tmp_path / "written.yaml").write_text(
        "preset: fleets\n"
        "service_rates: {one_of: [loguniform 0.4 1.6, 1.0], weights: [0.7, 0.3]}\n"
        "workers: choice 1 2 4\n"
    )
    config = make_config(**load_yaml(tmp_path / "written.yaml"))
    assert config == make_config("fleets", workers="choice 1 2 4")
    assert is_law(config.laws["workers"])


def test_values_as_a_command_line_gives_them() -> None:
    pairs = parse_pairs(
        [
            "utilisation={one_of: [uniform 0.4 0.8, 0.9], weights: [1, 3]}",
            "num_servers=loguniform 2 8",
        ],
        "--env-kwargs",
    )
    config = make_config("flaky", **pairs)
    assert {draw_config(config, seed).utilisation == 0.9 for seed in range(20)} == {True, False}
    assert config.server_slots == 8


def test_ten_thousand_servers() -> None:
    config = make_config("fleets", max_servers=10_000)
    assert config.server_slots == 10_000
    assert max(draw_config(config, seed).num_servers for seed in range(20)) > 1_000
