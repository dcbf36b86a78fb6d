"""The search for settings: what is proposed, what is given up, what is gone on with."""

from pathlib import Path
from typing import Any

import pytest

from grpo_gym.settings.config import ConfigError, replace
from grpo_gym.trainers.comparison.search_spaces import SPACES, Between, Choice, search_space
from grpo_gym.trainers.comparison.settings import (
    ALGORITHMS,
    PeerSettings,
    find_contender,
    keyword_arguments,
)

pytest.importorskip("optuna")
pytest.importorskip("stable_baselines3")
pytest.importorskip("sb3_contrib")

import optuna

from grpo_gym.trainers.comparison import search as module
from grpo_gym.trainers.comparison.search import (
    Budget,
    apply,
    best_settings,
    open_study,
    propose,
    try_out,
)

BUDGET = Budget(total_steps=2_000, evaluations=4, curve_episodes=2, final_episodes=3)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_the_first_trial_is_the_settings_there_are(tmp_path: Path, algorithm: str) -> None:
    contender = find_contender(algorithm, "CartPole-v1", {})
    study = open_study(tmp_path / "study.db", contender, Budget(total_steps=1_000_000))
    number, first = propose(study, contender)
    assert number == 0
    kinds = set()
    if isinstance(first, PeerSettings):
        assert keyword_arguments(first) == keyword_arguments(contender.settings)  # type: ignore[arg-type]
        first = replace(first, settings=contender.settings.settings)  # type: ignore[union-attr]
    assert first == contender.settings
    for _ in range(8):
        _, other = propose(study, contender)
        kinds.add(str(other))
        if isinstance(other, PeerSettings):
            keyword_arguments(other)  # minibatches divide
    assert len(kinds) == 8


def test_values_fit_each_other() -> None:
    settings = PeerSettings(env="CartPole-v1")
    values = {"num_envs": 128, "settings.n_steps": 1024, "settings.batch_size": 2048}
    found = apply(settings, values, total_steps=100_000)
    assert isinstance(found, PeerSettings)
    assert found.settings == {"n_steps": 128, "batch_size": 2048}
    assert 4 * found.num_envs * found.settings["n_steps"] <= 100_000
    keyword_arguments(found)
    found = apply(settings, {**values, "settings.n_steps": 16}, total_steps=100_000)
    assert found.settings == {"n_steps": 16, "batch_size": 2048}  # type: ignore[union-attr]


def test_spaces_hold_what_is_shipped(tmp_path: Path) -> None:
    study = optuna.create_study()
    trial = study.ask()
    assert Choice((1, 2)).suggest(trial, "a", 3) in (1, 2, 3)
    assert trial.distributions["a"].choices == ("1", "2", "3")
    assert 0.5 <= Between(1.0, 2.0).suggest(trial, "b", 0.5) <= 2.0
    assert trial.distributions["b"].low == 0.5
    sizes = Choice(([64, 64],))
    assert sizes.value(sizes.as_parameter([32, 16])) == [32, 16]
    assert sizes.value(sizes.as_parameter(False)) is False


def test_a_board_is_searched_without_what_only_layers_have() -> None:
    board = find_contender("maskable_ppo", "Battleship-v0", {})
    assert set(SPACES["maskable_ppo"]) - set(search_space(board)) == {"hidden_sizes", "activation"}


def test_the_training_is_given_up_below_the_median(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Runs whose returns are known: trial n has 10 n at every point, then one has 0."""
    value = {"now": 0.0}

    def known(_: Any, seed: int, plan: Any, judge: Any) -> dict[str, Any]:
        assert seed == 100 and plan.evaluation_seed == 8_000_000
        for part in range(1, 5):
            if judge is not None:
                judge({"steps": part * 500, "mean_return": value["now"]})
        return {"steps": steps["now"], "final": {"mean_return": value["now"]}}

    steps = {"now": 2_000}
    monkeypatch.setattr(module, "run", known)
    path, contender = tmp_path / "study.db", find_contender("ppo", "CartPole-v1", {})
    study = open_study(path, contender, BUDGET)
    for number in range(7):
        value["now"] = 10.0 * number
        trial, settings = propose(study, contender)
        study.tell(trial, try_out(path, trial, contender, settings, BUDGET))
    value["now"] = 0.0
    trial, settings = propose(study, contender)
    with pytest.raises(optuna.TrialPruned, match="below the median after 1,000 steps"):
        try_out(path, trial, contender, settings, BUDGET)
    study.tell(trial, state=optuna.trial.TrialState.PRUNED)
    value["now"], steps["now"] = 100.0, 2_501
    trial, settings = propose(study, contender)
    with pytest.raises(optuna.TrialPruned, match="trained for 2,501 steps"):
        try_out(path, trial, contender, settings, BUDGET)
    study.tell(trial, state=optuna.trial.TrialState.PRUNED)
    assert study.best_value == 60.0
    best = best_settings(study, contender)
    gamma = float(study.trials[6].params["settings.gamma"])
    assert best.settings["gamma"] == gamma  # type: ignore[union-attr]


def test_what_was_interrupted_comes_again(tmp_path: Path) -> None:
    path, contender = tmp_path / "study.db", find_contender("a2c", "CartPole-v1", {})
    study = open_study(path, contender, BUDGET)
    _, first = propose(study, contender)
    _, second = propose(study, contender)
    again = open_study(path, contender, BUDGET)
    assert [propose(again, contender)[1] for _ in range(2)] == [first, second]
    assert "shipped" in again.trials[2].user_attrs and "shipped" not in again.trials[3].user_attrs


def test_another_budget_or_start_is_refused(tmp_path: Path) -> None:
    path, contender = tmp_path / "study.db", find_contender("ppo", "CartPole-v1", {})
    open_study(path, contender, BUDGET)
    open_study(path, contender, BUDGET)
    with pytest.raises(ConfigError, match=r"total_steps was 2000 .* choose another --study"):
        open_study(path, contender, replace(BUDGET, total_steps=3_000))
    with pytest.raises(ConfigError, match="algorithm was 'ppo'"):
        open_study(path, find_contender("trpo", "CartPole-v1", {}), BUDGET)
    other = replace(contender.settings, num_envs=16)
    with pytest.raises(ConfigError, match=r"settings.num_envs was 8 there and is 16"):
        open_study(path, type(contender)(algorithm="ppo", settings=other, tuned=False), BUDGET)
    (tmp_path / "no.db").write_text("something else")
    with pytest.raises(ConfigError, match=r"must be a study .* got .*not a database"):
        open_study(tmp_path / "no.db", contender, BUDGET)
