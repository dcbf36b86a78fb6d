"""scripts/deploy_sim.py: some simulated hours as a user runs them, and its figure."""

import json
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from grpo_gym import GRPO
from grpo_gym.deployment import Transition
from grpo_gym.envs.autoscaler.records import METRICS, SCALING
from grpo_gym.settings import ConfigError

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
SHORT = {"days": 0.25, "shadow_hours": 1.0, "trouble_hour": 3.0, "restart_hour": 2.5}
TENTH_MINUTE = 10 / 60
"""The eleventh action of a policy comes ten minutes after its first."""


@pytest.fixture(scope="module")
def deploy_sim() -> Iterator[Any]:
    """The script's module, imported as when the script runs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(SCRIPTS))
        patch.setattr("os.fsync", lambda file: None)
        yield import_module("deploy_sim")


@pytest.fixture(scope="module")
def scenarios(deploy_sim: Any) -> Any:
    return import_module("deploy_sim_scenarios")


@pytest.fixture
def options(deploy_sim: Any, tmp_path: Path) -> Any:
    return deploy_sim.Options(out=tmp_path / "results.json", **SHORT)


@pytest.fixture(scope="module")
def measured(deploy_sim: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results of a run from the command line, with an untrained policy."""
    folder = tmp_path_factory.mktemp("deploy_sim")
    GRPO("mlp", "AutoScaler-v0", seed=3).save(folder / "policy.ckpt")
    names = ("good", "removes", "zero sensors", "fails")
    given = [f"--{name.replace('_', '-')}={value}" for name, value in SHORT.items()]
    arguments = ["--out", str(folder / "out.json"), "--policy", str(folder / "policy.ckpt")]
    deploy_sim.main([*arguments, *given, "--seeds", "1", "--scenarios", *names])
    return folder / "out.json"


def fallback_on(scenarios: Any, cluster: Any) -> Any:
    return scenarios.autoscaler("hpa_80", cluster)


def twin(scenarios: Any) -> Any:
    """A scenario whose policy is the fallback's twin."""
    return scenarios.Scenario(
        "a twin", lambda good, cluster: fallback_on(scenarios, cluster), "from the start"
    )


def test_a_policy_without_an_answer_is_pulled_back_after_eleven_actions(measured: Path) -> None:
    run = json.loads(measured.read_text())["fails/seed 0"]
    assert run["hours to pull back"] == pytest.approx(TENTH_MINUTE)
    assert run["mode at the end"] == "shadow"
    *_, (hour, mode, _, by, reason) = run["transitions: hour, mode, percentage, by, reason"]
    assert (hour, mode, by) == (pytest.approx(3.0 + TENTH_MINUTE, abs=1e-3), "shadow", "guard")
    assert reason.startswith("11 violations in the last 100 actions")


def test_removing_is_no_violation_every_fifth_minute(measured: Path) -> None:
    run = json.loads(measured.read_text())["removes/seed 0"]
    assert TENTH_MINUTE < run["hours to pull back"] < 1.5 * TENTH_MINUTE


def test_results_tell_what_it_was_worth(measured: Path) -> None:
    values = json.loads(measured.read_text())
    alone = values["hpa_80 alone/seed 0"]
    assert 0.0 < alone["reward per step"] < 0.5
    assert alone["dollars per day"] > 24 * 12.5 * 2
    good, fails = values["good/seed 0"], values["fails/seed 0"]
    assert good["hours to pull back"] is None
    assert good["mode at the end"] == "gradual"
    assert 0.0 < good["percentage of actions by the policy"] < 60.0
    assert set(good["policy alone"]) == set(alone)
    assert "policy alone" not in fails
    assert len(good["demand every 10 minutes"].split()) == 36
    assert good["demand every 10 minutes"] == fails["demand every 10 minutes"]


def test_what_was_measured_is_not_measured_again(
    deploy_sim: Any, measured: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = measured.read_bytes()
    monkeypatch.setattr(deploy_sim, "simulate", None)
    policy = str(measured.parent / "policy.ckpt")
    arguments = ["--out", str(measured), "--policy", policy, "--seeds", "1"]
    deploy_sim.main([*arguments, "--scenarios", "good", "fails"])
    assert measured.read_bytes() == before


def test_trains_a_policy_if_there_is_none(
    deploy_sim: Any, scenarios: Any, options: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    small = deploy_sim.Options(out=options.out, training_steps=1)
    policy = deploy_sim.trained_policy(small)
    cluster = scenarios.Cluster(0, 10)
    assert policy(cluster.observation) in range(len(SCALING))
    assert capsys.readouterr().out == "training a policy\n"


def test_a_twin_of_the_fallback_changes_nothing(
    deploy_sim: Any, scenarios: Any, options: Any
) -> None:
    run = deploy_sim.simulate(twin(scenarios), 1, None, options)
    clusters = []

    def fallback(cluster: Any) -> Any:
        clusters.append(cluster)
        return fallback_on(scenarios, cluster)

    assert deploy_sim.play_alone(fallback, 1, options) == deploy_sim.means(run.cluster)
    assert run.cluster.rewards == clusters[0].rewards
    assert run.cluster.replicas == clusters[0].replicas
    assert {"policy", "fallback"} == {each.source for each in run.decisions}


def test_a_restart_changes_nothing(deploy_sim: Any, scenarios: Any, options: Any) -> None:
    scenario = scenarios.SCENARIOS["wasteful"]
    never = deploy_sim.Options(out=options.out, **{**SHORT, "restart_hour": 1000.0})
    once, other = (deploy_sim.simulate(scenario, 0, None, each) for each in (options, never))
    assert once.transitions == other.transitions
    assert once.cluster.rewards == other.cluster.rewards
    assert once.decisions == other.decisions


def test_the_operator_is_refused_while_the_policy_violates(
    deploy_sim: Any, scenarios: Any, options: Any
) -> None:
    scenario = scenarios.Scenario("", scenarios.failing, "from the start")
    run = deploy_sim.simulate(scenario, 0, None, options)
    assert run.transitions == ()
    assert run.refusals == [1.0, 2.0, 3.0, 4.0, 5.0]
    assert {(each.mode, each.source) for each in run.decisions} == {("shadow", "fallback")}


def test_reversed_signs_are_the_opposite_change(scenarios: Any) -> None:
    for action, change in enumerate(SCALING):
        act = scenarios.reversed_signs(lambda observation, action=action: action, None)
        assert SCALING[act({})] == -change


def test_broken_sensors_are_those_that_the_policy_sees(scenarios: Any) -> None:
    seen: list[np.ndarray] = []

    def good(observation: Any) -> int:
        seen.append(observation["current_metrics"])
        return 3

    first, second = (
        {"current_metrics": np.full(13, value, np.float32), "replicas": 5} for value in (0.1, 0.2)
    )
    zero, frozen = scenarios.zero_sensors(good, None), scenarios.frozen_sensors(good, None)
    for act in (zero, frozen, frozen):
        act(first if len(seen) < 2 else second)
    broken = [METRICS.index(each) for each in ("cpu_percent", "p50_latency_ms", "p99_latency_ms")]
    sound = [place for place in range(13) if place not in broken]
    assert (seen[0][broken] == -1.0).all()
    assert seen[2][broken] == pytest.approx(0.1)
    assert seen[2][sound] == pytest.approx(0.2)
    assert (first["current_metrics"] == np.float32(0.1)).all()


def test_hours_by_hand(deploy_sim: Any, scenarios: Any, options: Any) -> None:
    steps = [("shadow", "gradual", 3600.0), ("gradual", "full", 7200.0), ("full", "shadow", 18e3)]
    transitions = tuple(
        Transition(at, before, 0.0, after, 0.0, "guard", "")  # type: ignore[arg-type]
        for before, after, at in steps
    )
    cluster = scenarios.Cluster(0, 2)
    cluster.step(3)
    cluster.step(3)
    decisions = [
        SimpleNamespace(mode=mode, arm="policy", source=source)
        for mode, source in (("gradual", "policy"), ("shadow", "fallback"))
    ]
    run = deploy_sim.Run(cluster, transitions, [], decisions)
    later, at_once, never = (
        deploy_sim.describe(run, scenarios.Scenario("", None, when), options)
        for when in ("later", "from the start", "never")
    )
    assert later["hours to full"] == 1.0
    assert later["hours to pull back"] == 2.0  # from hour 3
    assert at_once["hours to pull back"] == 4.0  # from the promotion
    assert never["hours to pull back"] is None
    assert [each["pulled back without trouble"] for each in (later, at_once, never)] == [
        False,
        False,
        True,
    ]
    assert later["percentage of actions by the policy"] == 50.0
    assert later["reward per step by arm"] == {"policy": cluster.rewards[0], "fallback": None}


def test_the_further_rule_by_hand(scenarios: Any) -> None:
    rule, names = scenarios.AddWhileSlow(), (*METRICS, "pending", "sin_day", "cos_day")

    def allows(change: int, p99_ms: float, pending: int = 0, may_add: int = 1) -> bool:
        metrics = np.zeros(len(names), np.float32)
        metrics[names.index("p99_latency_ms")] = p99_ms / 5_000.0 - 1.0
        metrics[names.index("pending")] = pending / 50.0 - 1.0
        mask = np.array([1, 1, 1, 1, may_add, 0, 0], np.int8)
        observation = {"current_metrics": metrics, "action_mask": mask}
        return bool(rule(observation, SCALING.index(change), None))

    assert [allows(change, 1_100.0) for change in (-4, 0, 1)] == [False, False, True]
    assert allows(0, 900.0)
    assert allows(0, 1_100.0, pending=1)
    assert allows(0, 1_100.0, may_add=0)


def test_outcomes_are_rewards_or_dollars(deploy_sim: Any, scenarios: Any, options: Any) -> None:
    cluster = scenarios.Cluster(0, 2)
    cluster.step(3)
    dollars = deploy_sim.Options(out=options.out, outcome="dollars")
    assert deploy_sim.outcome(cluster, options) == cluster.rewards[0]
    assert deploy_sim.outcome(cluster, dollars) == -cluster.dollars[0] < 0.0


def test_unknown_scenarios_are_refused(deploy_sim: Any, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"scenarios must be from good, .*got 'bad'"):
        deploy_sim.main(["--out", str(tmp_path / "out.json"), "--scenarios", "bad"])


def test_the_figure_of_what_was_measured(deploy_sim: Any, measured: Path) -> None:
    pytest.importorskip("matplotlib")
    out = measured.parent / "out.png"
    arguments = ["--out", str(measured), "--seeds", "1", "--scenarios", "fails"]
    deploy_sim.main([*arguments, "--figure", str(out)])
    assert out.read_bytes().startswith(b"\x89PNG")
    figure = deploy_sim.draw({"fails": json.loads(measured.read_text())["fails/seed 0"]})
    texts = [text.get_text() for text in figure.subfigs[0].axes[0].texts]
    assert any("11 violations" in text for text in texts)
    assert texts[0].startswith("1.00 h, gradual: the operator")


def test_no_reason_lies_over_the_bars(deploy_sim: Any) -> None:
    backend = pytest.importorskip("matplotlib.backends.backend_agg")
    published = json.loads((SCRIPTS.parent / "docs" / "results" / "deploy_sim.json").read_text())
    runs = {name.split("/")[0]: run for name, run in published.items() if "/seed 0" in name}
    figure = deploy_sim.draw({name: run for name, run in runs.items() if "alone" not in name})
    backend.FigureCanvasAgg(figure).draw()
    reasons = 0
    for cell in figure.subfigs:
        if not cell.axes:
            continue  # the last row may have one panel
        share = cell.axes[0]
        bars = [bar.get_window_extent() for bar in share.collections if len(bar.get_paths())]
        for text in share.texts:
            frame = text.get_bbox_patch()
            shown = text.get_window_extent() if frame is None else frame.get_window_extent()
            assert not any(shown.overlaps(bar) for bar in bars), text.get_text()
            assert not shown.overlaps(share.get_legend().get_window_extent()), text.get_text()
            reasons += 1
    assert reasons >= 9
