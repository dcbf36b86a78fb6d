"""The search for settings: what is proposed, what is given up, what is gone on with."""

import logging
import resource
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from gymnasium.spaces import Box, Discrete, Space

from grpo_gym.settings import ConfigError
from grpo_gym.trainers.comparison.contenders import Contender, find_contender
from grpo_gym.trainers.comparison.settings import ALGORITHMS, SB3Settings, keyword_arguments
from grpo_gym.trainers.settings import TrainSettings

pytest.importorskip("optuna")
pytest.importorskip("stable_baselines3")
pytest.importorskip("sb3_contrib")

import optuna
from optuna.distributions import CategoricalDistribution, FloatDistribution

from grpo_gym.trainers.comparison import search as module
from grpo_gym.trainers.comparison.records import TrialBudget
from grpo_gym.trainers.comparison.search import Search
from grpo_gym.trainers.comparison.search_spaces import (
    SPACES,
    Interface,
    first_parameters,
    search_space,
    values_of,
    with_values,
)

CART_POLE = Interface(Box(-1.0, 1.0, (4,)), Discrete(2))
BUDGET = TrialBudget(total_steps=2_000, evaluations=4, curve_episodes=2, final_episodes=3)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_the_first_trial_is_the_settings_there_are(tmp_path: Path, algorithm: str) -> None:
    contender = find_contender(algorithm, "CartPole-v1", {})
    search = Search(tmp_path / "study.db", contender, TrialBudget(total_steps=1_000_000))
    number, first = search.propose()
    assert number == 0
    kinds = set()
    if isinstance(first, SB3Settings):
        assert keyword_arguments(first) == keyword_arguments(contender.settings)  # type: ignore[arg-type]
        first = replace(first, settings=contender.settings.settings)  # type: ignore[union-attr]
    assert first == contender.settings
    for _ in range(8):
        _, other = search.propose()
        kinds.add(str(other))
        if isinstance(other, SB3Settings):
            keyword_arguments(other)  # minibatches divide
    assert len(kinds) == 8


def test_values_fit_each_other() -> None:
    settings = SB3Settings(env="CartPole-v1")
    values = {"num_envs": 128, "settings.n_steps": 1024, "settings.batch_size": 2048}
    found = with_values(settings, values, total_steps=100_000)
    assert isinstance(found, SB3Settings)
    assert found.settings == {"n_steps": 128, "batch_size": 2048}
    assert 4 * found.num_envs * found.settings["n_steps"] <= 100_000
    keyword_arguments(found)
    found = with_values(settings, {**values, "settings.n_steps": 16}, total_steps=100_000)
    assert found.settings == {"n_steps": 16, "batch_size": 2048}  # type: ignore[union-attr]


def test_whole_iterations_of_grpo_fit_into_a_trial(tmp_path: Path) -> None:
    ours = find_contender("grpo", "CartPole-v1", {})
    values = {"grpo.num_groups": 32, "grpo.group_size": 64}
    for total_steps, cut, members in (
        (4 * 500 * 128, None, 128),
        (4 * 500 * 128, 250, 256),
        (4 * 500 * 128, 5000, 128),
        (100, None, 2),
        (10**9, None, 32 * 64),
    ):
        cut_values = {**values, "grpo.max_episode_steps": cut}
        found = with_values(ours.settings, cut_values, total_steps, 500)
        assert isinstance(found, TrainSettings)
        assert found.grpo.num_groups * found.grpo.group_size == members
    assert with_values(ours.settings, {}, 100, 500) == ours.settings
    search = Search(tmp_path / "study.db", ours, TrialBudget(total_steps=100_000))
    assert search.propose()[1] == ours.settings
    cuts = set()
    for _ in range(20):
        grpo = search.propose()[1].grpo  # type: ignore[union-attr]
        steps = grpo.max_episode_steps or 500
        assert grpo.num_groups * grpo.group_size * steps <= 100_000 / 4
        cuts.add(grpo.max_episode_steps)
    assert cuts >= {None, 200}


def test_a_study_of_another_space_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after an update of the package: optuna could not go on."""
    path, contender = tmp_path / "study.db", find_contender("grpo", "CartPole-v1", {})
    Search(path, contender, BUDGET)
    space = {name: kind for name, kind in SPACES["grpo"].items() if name != "grpo.epochs"}
    monkeypatch.setitem(SPACES, "grpo", {**space, "grpo.discount": (0.5, 0.99)})
    with pytest.raises(ConfigError, match=r"space\.grpo\.(epochs|discount) was .* --study"):
        Search(path, contender, BUDGET)


def test_gae_is_searched_where_it_has_an_effect() -> None:
    plain = find_contender("grpo", "LoadBalancer-v0", {})
    assert "grpo.gae_lambda" not in search_space(plain, CART_POLE)
    adapted = find_contender("grpo", "MountainCar-v0", {}).trained_for(100_000)
    assert first_parameters(adapted, CART_POLE)["grpo.gae_lambda"] == "0.95"


def test_spaces_include_the_contenders_own_values() -> None:
    keywords = {"learning_rate": 0.5, "gamma": 0.123}
    settings = SB3Settings(env="CartPole-v1", hidden_sizes=(32, 16), settings=keywords)
    contender = Contender(settings=settings, tuned=False)
    space = search_space(contender, CART_POLE)
    assert space["settings.learning_rate"] == FloatDistribution(1e-4, 0.5, log=True)
    assert isinstance(space["hidden_sizes"], CategoricalDistribution)
    assert space["hidden_sizes"].choices == ("[64, 64]", "[128, 128]", "[256, 256]", "[32, 16]")
    own = first_parameters(contender, CART_POLE)
    assert (own["settings.gamma"], own["hidden_sizes"]) == ("0.123", "[32, 16]")
    values = values_of(own)
    assert (values["hidden_sizes"], values["normalise_rewards"]) == ([32, 16], False)


def test_a_board_is_searched_without_what_only_layers_have() -> None:
    board = find_contender("maskable_ppo", "Battleship-v0", {})
    left_out = set(SPACES["maskable_ppo"]) - set(search_space(board, CART_POLE))
    assert left_out == {
        "hidden_sizes",
        "activation",
        "initial_log_std",
        "normalise_observations",
    }


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_what_has_no_effect_in_a_space_is_not_searched(algorithm: str) -> None:
    """Noise of actions that are not Box; normalised observations that are no numbers."""
    contender = find_contender(algorithm, "CartPole-v1", {})
    numbers, choices = Box(-1.0, 1.0, (4,)), Discrete(3)

    def searched(name: str, observations: Space[Any], actions: Space[Any]) -> bool:
        space = search_space(contender, Interface(observations, actions))
        return any(place.rpartition(".")[2] == name for place in space)

    assert searched("initial_log_std", numbers, numbers)
    assert not searched("initial_log_std", numbers, choices)
    assert searched("normalise_observations", numbers, choices) == (algorithm != "grpo")
    assert not searched("normalise_observations", choices, choices)


def test_the_training_is_given_up_below_the_median(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Runs whose returns are known: trial n has 10 n at every point, then one has 0."""
    value = {"now": 0.0}

    def known(_: Any, seed: int, plan: Any, judge: Any) -> SimpleNamespace:
        assert seed == 100 and plan.evaluation_seed == 8_000_000
        for part in range(1, 5):
            judge(SimpleNamespace(steps=part * 500, mean_return=value["now"]))
        final = SimpleNamespace(mean_return=value["now"])
        return SimpleNamespace(steps=steps["now"], final=final)

    steps = {"now": 2_000}
    monkeypatch.setattr(module, "train_and_evaluate", known)
    path, contender = tmp_path / "study.db", find_contender("ppo", "CartPole-v1", {})
    search = Search(path, contender, BUDGET)
    study = search.study
    for number in range(7):
        value["now"] = 10.0 * number
        trial, settings = search.propose()
        study.tell(trial, search.run_trial(trial, settings))
    value["now"] = 0.0
    trial, settings = search.propose()
    with pytest.raises(optuna.TrialPruned, match="below the median after 1,000 steps"):
        search.run_trial(trial, settings)
    study.tell(trial, state=optuna.trial.TrialState.PRUNED)
    value["now"], steps["now"] = 100.0, 2_501
    trial, settings = search.propose()
    with pytest.raises(optuna.TrialPruned, match="trained for 2,501 steps"):
        search.run_trial(trial, settings)
    study.tell(trial, state=optuna.trial.TrialState.PRUNED)
    assert study.best_value == 60.0
    best = search.best_settings()
    gamma = float(study.trials[6].params["settings.gamma"])
    assert best.settings["gamma"] == gamma  # type: ignore[union-attr]


def test_advice_is_given_on_the_settings_of_the_start_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def advised(*_: Any) -> SimpleNamespace:
        logging.getLogger("grpo_gym.trainers.advice").warning("few iterations")
        return SimpleNamespace(steps=2_000, final=SimpleNamespace(mean_return=1.0))

    monkeypatch.setattr(module, "train_and_evaluate", advised)
    search = Search(tmp_path / "study.db", find_contender("grpo", "CartPole-v1", {}), BUDGET)
    for _ in range(3):
        search.run_trial(*search.propose())

    assert caplog.messages == ["few iterations"]
    advised()
    assert len(caplog.messages) == 2


def test_what_was_interrupted_comes_again(tmp_path: Path) -> None:
    path, contender = tmp_path / "study.db", find_contender("a2c", "CartPole-v1", {})
    search = Search(path, contender, BUDGET)
    _, first = search.propose()
    _, second = search.propose()
    again = Search(path, contender, BUDGET)
    assert [again.propose()[1] for _ in range(2)] == [first, second]
    assert "shipped" in again.study.trials[2].user_attrs
    assert "shipped" not in again.study.trials[3].user_attrs


@contextmanager
def full_disk(largest_file: int) -> Iterator[None]:
    """No file of this process can grow beyond so many bytes, as if the disk were full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("largest_file", [0, 4096, 50_000])
def test_a_study_begun_on_a_full_disk_can_be_begun_again(tmp_path: Path, largest_file: int) -> None:
    path, contender = tmp_path / "study.db", find_contender("ppo", "CartPole-v1", {})
    with full_disk(largest_file), pytest.raises(OSError):
        Search(path, contender, BUDGET)
    assert list(tmp_path.iterdir()) == []
    assert Search(path, contender, BUDGET).propose()[0] == 0


def test_a_disk_that_becomes_full_costs_one_trial(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, contender = tmp_path / "study.db", find_contender("ppo", "CartPole-v1", {})
    monkeypatch.setattr(module, "worker_pool", lambda processes: InThisProcess())
    monkeypatch.setattr(Search, "run_trial", lambda self, number, settings: float(number))
    search = Search(path, contender, BUDGET)
    search.run(2, 1, print)
    with full_disk(path.stat().st_size), pytest.raises(OSError, match=r"study.db cannot be writ"):
        search.run(10_000, 1, lambda line: None)
    stored = [trial.value for trial in Search(path, contender, BUDGET).study.trials if trial.value]
    again = Search(path, contender, BUDGET)
    again.run(len(stored) + 3, 1, print)
    assert [trial.value for trial in again.study.trials if trial.value][: len(stored)] == stored


class InThisProcess:
    """A pool that works at once."""

    def submit(self, work: Any, *arguments: Any) -> "Future[Any]":
        future: Future[Any] = Future()
        future.set_result(work(*arguments))
        return future

    def shutdown(self, cancel_futures: bool = False) -> None:
        pass


def test_another_budget_or_start_is_refused(tmp_path: Path) -> None:
    path, contender = tmp_path / "study.db", find_contender("ppo", "CartPole-v1", {})
    Search(path, contender, BUDGET)
    Search(path, contender, BUDGET)
    with pytest.raises(ConfigError, match=r"total_steps was 2000 .* choose another --study"):
        Search(path, contender, replace(BUDGET, total_steps=3_000))
    with pytest.raises(ConfigError, match="algorithm was 'ppo'"):
        Search(path, find_contender("trpo", "CartPole-v1", {}), BUDGET)
    other = replace(contender.settings, num_envs=16)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"settings.num_envs was 8 there and is 16"):
        Search(path, Contender(settings=other, tuned=False), BUDGET)
    (tmp_path / "no.db").write_text("something else")
    with pytest.raises(ConfigError, match=r"must be a writable study .* got .*not a database"):
        Search(tmp_path / "no.db", contender, BUDGET)
