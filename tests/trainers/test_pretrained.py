"""The router that ships: every kind of observation, any fleet, and what users may do with it."""

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import grpo_gym
from grpo_gym.cli.main import main
from grpo_gym.settings import ConfigError
from grpo_gym.trainers import pretrained as package
from grpo_gym.trainers.named_policies import evaluate_baseline
from grpo_gym.trainers.pretrained import ENV_ID, router_file

KINDS = [
    {"observe_size": sizes, "observe_weights": weights}
    for sizes, weights in itertools.product((True, False), repeat=2)
]
SHIPPED = [router_file({"preset": "fleets", **kind}) for kind in KINDS]


def test_it_is_small() -> None:
    files = sorted(Path(package.__file__).parent.glob("*.ckpt"))
    assert files == sorted(SHIPPED)
    assert sum(file.stat().st_size for file in files) < 200_000


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("servers", [1, 5, 37, 128])
def test_it_routes_for_any_number_of_servers(kind: dict[str, bool], servers: int) -> None:
    router = grpo_gym.pretrained("router", {"preset": "fleets", "num_servers": servers, **kind})
    evaluation = router.evaluate(4)
    assert np.isfinite(evaluation.returns).all()


@pytest.mark.parametrize("kind", KINDS)
def test_it_beats_least_connections_on_a_fleet_it_never_saw(kind: dict[str, bool]) -> None:
    kwargs = {"preset": "fleets", "fleet_seed": 3_000_001, "num_servers": 10, **kind}
    router = grpo_gym.pretrained("router", kwargs).evaluate(200, seed=9_000_000)
    rule = evaluate_baseline("least_connections", ENV_ID, kwargs, 200, 9_000_000)
    saved = router.returns - rule.returns
    assert saved.mean() > 2.0 * saved.std(ddof=1) / len(saved) ** 0.5


def test_its_choice_does_not_depend_on_the_order_of_servers() -> None:
    rates = (1.0, 0.5, 2.0)
    costs = []
    for order in itertools.permutations(range(3)):
        kwargs = {
            "service_rates": tuple(rates[n] for n in order),
            "mean_time_to_failure_ms": None,
            "observe_weights": True,
        }
        costs.append(grpo_gym.pretrained("router", kwargs).evaluate(20).mean_return)
    # Ties between servers that look alike, at the start, are broken by their order.
    assert np.ptp(costs) < 0.02 * abs(np.mean(costs))


def test_without_arguments_it_routes_for_fleets() -> None:
    router = grpo_gym.pretrained()
    assert router.env_kwargs["preset"] == "fleets"
    assert router.action_space.n == 24


def test_arguments_are_those_of_the_environment() -> None:
    router = grpo_gym.pretrained("router", {"num_servers": 3})
    assert router.env_kwargs["preset"] == "flaky"
    assert router.action_space.n == 3


def test_it_goes_on_learning() -> None:
    router = grpo_gym.pretrained("router", {"num_servers": 3, "episode_length": 40})
    before = router.weights_sha256()
    router.learn(1_280)
    assert router.weights_sha256() != before
    assert np.isfinite(router.evaluate(4).returns).all()


def test_the_card_names_the_files_and_the_command() -> None:
    card = (Path(package.__file__).parent / "router.md").read_text()
    assert "python scripts/fleets.py --part router" in card
    assert all(file.name in card for file in SHIPPED)


@pytest.mark.parametrize(
    ("name", "kwargs", "message"),
    [
        ("ruter", None, "there is no pretrained policy 'ruter'. Did you mean 'router'"),
        ("router", {"preset": "tiny-grpo"}, 'observation must be "per_server"'),
        ("router", {"num_servers": 0}, "num_servers must be"),
    ],
)
def test_what_it_cannot_do(name: str, kwargs: dict[str, Any] | None, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        grpo_gym.pretrained(name, kwargs)


def test_evaluate_knows_it(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["evaluate", "--policy", "pretrained:router", "--episodes", "3"]
    assert main([*words, "--env-kwargs", "num_servers=7"]) == 0
    assert "pretrained:router on LoadBalancer-v0" in capsys.readouterr().out
    assert main([*words, "--env", "CartPole-v1"]) == 2
    assert "env must be LoadBalancer-v0" in capsys.readouterr().err
