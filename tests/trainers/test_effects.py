"""Settings without effect are refused where a user gives them, and really have none."""

import dataclasses
from importlib.resources import files
from typing import Any

import pytest
import yaml

from grpo_gym import GRPO
from grpo_gym.cli.settings import parse_train
from grpo_gym.policies.options import OPTIONS_OF
from grpo_gym.settings import ConfigError, from_mapping
from grpo_gym.settings.effects import without_effect
from grpo_gym.trainers.config import GRPOConfig
from grpo_gym.trainers.effects import needs_of
from grpo_gym.trainers.presets import PRESETS, make_config
from grpo_gym.trainers.settings import TrainSettings
from probe_envs import BestAction, Countdown

TRUST_REGION = {"update": "trust_region"}
ADAMW = {"update": "adamw"}

# A setting; beside what it has no effect; beside what it has one.
CASES: list[tuple[str, Any, dict[str, Any], dict[str, Any]]] = [
    ("branch_every", 2, {}, {"grouping": "branch"}),
    ("branch_lookahead", 1, {}, {"grouping": "branch"}),
    ("branch_from", "best", {}, {"grouping": "branch"}),
    ("final_discount", 0.99, {}, {"discount": 0.9}),
    ("state_bin_width", 1.0, {}, {"baseline": "state_bin"}),
    ("state_bin_width", 1.0, {}, {"anchor_weight": 1.0}),
    ("gae_lambda", 0.9, {}, {"baseline": "state"}),
    ("anchor_discount", 0.5, {}, {"anchor_weight": 1.0}),
    ("value_learning_rate", 0.1, {}, {"learned_baseline": True}),
    ("clip_low", 0.01, {"objective": "unclipped"}, {"objective": "cispo"}),
    ("clip_low", 0.01, {"objective": "upper_clipped"}, {"objective": "clipped"}),
    ("clip_low", 0.01, TRUST_REGION, ADAMW),
    ("clip_high", 0.01, {"objective": "reinforce"}, {"objective": "upper_clipped"}),
    ("clip_high", 0.01, TRUST_REGION, ADAMW),
    ("learning_rate", 0.1, TRUST_REGION, ADAMW),
    ("learning_rate_schedule", "constant", TRUST_REGION, ADAMW),
    ("final_learning_rate", 0.5, TRUST_REGION, ADAMW),
    (
        "final_learning_rate", 0.5,
        {"learning_rate_schedule": "constant"}, {"learning_rate_schedule": "cosine"},
    ),
    ("weight_decay", 0.5, TRUST_REGION, ADAMW),
    ("max_grad_norm", 1e-3, TRUST_REGION, ADAMW),
    ("epochs", 1, TRUST_REGION, ADAMW),
    ("minibatches", "groups", TRUST_REGION, ADAMW),
    ("num_minibatches", 1, TRUST_REGION, ADAMW),
    ("minibatch_size", 4, TRUST_REGION, ADAMW),
    ("target_kl", 1e-9, TRUST_REGION, ADAMW),
    ("target_kl", 1e-9, {"epochs": 1}, {"epochs": 2}),
    ("max_kl", 0.1, {}, TRUST_REGION),
    ("damping", 0.5, {}, TRUST_REGION),
    ("conjugate_gradient_iterations", 1, {}, TRUST_REGION),
    ("backtracks", 1, {}, TRUST_REGION),
    ("kl_estimator", "k2", {}, {"kl_coefficient": 0.5}),
    ("kl_reference", "collection", {}, {"kl_coefficient": 0.5}),
    (
        "reference_decay", 0.1,
        {"kl_coefficient": 0.5}, {"kl_coefficient": 0.5, "kl_reference": "moving_average"},
    ),
    (
        "reference_every", 1,
        {"kl_coefficient": 0.5}, {"kl_coefficient": 0.5, "kl_reference": "refreshed"},
    ),
]  # fmt: skip


def options(values: dict[str, Any]) -> list[str]:
    words = []
    for name, value in values.items():
        option = name.replace("_", "-")
        given = {True: [f"--{option}"], False: [f"--no-{option}"]}
        words += given[value] if isinstance(value, bool) else [f"--{option}", str(value)]
    return words


def weights_after_training(values: dict[str, Any]) -> str:
    # Settings given at once as a config are not refused.
    settings = {"num_groups": 4, "group_size": 4, "learning_rate": 0.05, **values}
    model = GRPO("linear", Countdown, config=from_mapping(GRPOConfig, settings, "test"))
    model.learn(100)
    return model.weights_sha256()


LINE = ("--env", "MountainCar-v0", "--policy", "linear")


@pytest.mark.parametrize(("name", "value", "without", "beside"), CASES)
def test_a_setting_without_effect_is_refused_and_has_none(
    name: str,
    value: Any,
    without: dict[str, Any],
    beside: dict[str, Any],
    caplog: pytest.LogCaptureFixture,
) -> None:
    with pytest.raises(ConfigError, match=rf"^--{name.replace('_', '-')} must be left out unless"):
        parse_train([*LINE, *options({**without, name: value})])
    parse_train([*LINE, *options({**beside, name: value})])
    default = {each.name: each.default for each in dataclasses.fields(GRPOConfig)}[name]
    parse_train([*LINE, *options({**without, name: default})])  # asks for nothing
    assert caplog.messages == []
    GRPO("linear", BestAction, **{name: value}, **without)
    assert [message.split(" unless ")[0] for message in caplog.messages] == [
        f"{name} has no effect"
    ]
    assert weights_after_training({**without, name: value}) == weights_after_training(without)


def test_every_setting_with_a_need_is_tried() -> None:
    tried = {name for name, *_ in CASES} | {"augment_symmetries"}  # refused without symmetries
    assert {name for need in needs_of("linear") for name in need.names} - tried == {
        name
        for policy, options in OPTIONS_OF.items()
        for name in options.__dataclass_fields__
        if policy != "linear" and name not in OPTIONS_OF["linear"].__dataclass_fields__
    }


@pytest.mark.parametrize(
    ("policy", "name", "value", "named"),
    [
        ("linear", "hidden_sizes", (8,), "'mlp' or 'combined' or 'gru', or learned_baseline"),
        ("linear", "activation", "relu", "policy is 'mlp'"),
        ("mlp", "gru_width", 8, "policy is 'gru'"),
        ("mlp", "channels", 8, "policy is 'board'"),
        ("gru", "activation", "relu", "policy is 'mlp'"),
        ("mlp", "lstm_layers", 1, "policy is 'temporal'"),
        ("mlp", "server_width", 8, "policy is 'servers'"),
        ("mlp", "initial_log_std", -1.0, "actions are Box"),
        ("mlp", "log_std_bounds", (-2.0, 1.0), "actions are Box"),
    ],
)
def test_options_of_other_policies_and_actions_are_warned_of(
    policy: str, name: str, value: Any, named: str, caplog: pytest.LogCaptureFixture
) -> None:
    GRPO(policy, BestAction, frame_history=2, **{name: value})
    (message,) = caplog.messages
    assert message.startswith(f"{name} has no effect unless ") and named in message


def test_options_that_matter_are_not(caplog: pytest.LogCaptureFixture) -> None:
    GRPO("linear", BestAction, hidden_sizes=(8,), learned_baseline=True)
    GRPO("mlp", "Pendulum-v1", initial_log_std=-1.0, log_std_bounds=(-2.0, 1.0))
    GRPO("mlp", BestAction, hidden_sizes=(8,), activation="relu", frame_history=2)
    assert caplog.messages == []


def test_an_option_given_twice_is_refused() -> None:
    with pytest.raises(ConfigError, match="hidden_sizes must be given once"):
        GRPO("mlp", BestAction, hidden_sizes=(8,), policy_kwargs={"hidden_sizes": (4,)})


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_set_nothing_for_nothing(preset: str) -> None:
    policy = "temporal" if preset == "chapter" else "mlp"
    assert not list(without_effect(make_config(preset), needs_of(policy), PRESETS[preset]))


def test_shipped_settings_set_nothing_for_nothing() -> None:
    root = files("grpo_gym.configs")
    folders = (root, root / "comparison" / "grpo")
    texts = [
        (entry.name, entry.read_text())
        for folder in folders
        for entry in folder.iterdir()
        if entry.name.endswith(".yaml")
    ]
    assert len(texts) > 20
    for name, text in texts:
        settings = from_mapping(TrainSettings, yaml.safe_load(text), name)
        given = set(yaml.safe_load(text).get("grpo", {}))
        assert not list(without_effect(settings.grpo, needs_of(settings.policy), given)), name
