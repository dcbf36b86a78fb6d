"""Names of other libraries' settings are answered with ours, in Python and on command lines."""

import inspect
from collections import Counter

import pytest

from grpo_gym import GRPO
from grpo_gym.cli.train import main
from grpo_gym.settings import ConfigError, suggest
from grpo_gym.settings.other_names import _ABSENT, _OURS, counterpart
from grpo_gym.trainers.config import GRPOConfig
from grpo_gym.trainers.settings import TrainSettings

_LIBRARY = {name: library for library in _OURS for name in (*_OURS[library], *_ABSENT[library])}


@pytest.mark.parametrize(
    ("name", "ours"),
    [
        ("gamma", "discount"),
        ("ent_coef", "entropy_coefficient"),
        ("n_steps", "num_groups and group_size"),
        ("n_epochs", "epochs"),
        ("batch_size", "minibatch_size"),
        ("clip_range", "clip_low and clip_high"),
        ("lr", "learning_rate"),
        ("vf_coef", "learned_baseline here: there is no critic"),
        ("learning_starts", "no replay buffer"),
        ("update_epochs", "epochs"),
        ("clip_coef", "clip_low and clip_high"),
        ("num_generations", "group_size"),
        ("beta", "kl_coefficient"),
    ],
)
def test_a_keyword_and_an_option(name: str, ours: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ConfigError, match=ours) as refused:
        GRPO("mlp", "CartPole-v1", **{name: 1})
    assert _LIBRARY[name] in str(refused.value)
    option = "--" + name.replace("_", "-")
    assert main(["--env", "CartPole-v1", option, "1"]) == 2
    error = capsys.readouterr().err
    first = ours.partition(" ")[0]
    written = first if first == "no" else "--" + first.replace("_", "-")
    assert f"{option} is not an option of train. " in error
    assert written in error


@pytest.mark.parametrize(
    ("option", "answer"),
    [
        ("--track", "It is a setting of CleanRL: a callback sends the statistics"),
        ("--wandb-project-name", "It is a setting of CleanRL: a callback sends the statistics"),
        ("--capture-video", "It is a setting of CleanRL: grpo-gym play writes videos"),
        ("--env-id", "What CleanRL calls --env-id is --env here."),
        ("--exp-name", "What CleanRL calls --exp-name is --run-dir here."),
        ("--temperature", "It is a setting of TRL: actions are sampled"),
    ],
)
def test_options_alone(option: str, answer: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--env", "CartPole-v1", option, "1"]) == 2
    assert f"{option} is not an option of train. {answer}" in capsys.readouterr().err


def test_options_of_training_and_policies() -> None:
    with pytest.raises(ConfigError, match="net_arch is hidden_sizes here"):
        GRPO("mlp", "CartPole-v1", policy_kwargs={"net_arch": [64, 64]})
    with pytest.raises(ConfigError, match="MlpPolicy is mlp here"):
        GRPO("MlpPolicy", "CartPole-v1")


def test_ours_exist_and_theirs_are_not_ours() -> None:
    fields = {**GRPOConfig.__dataclass_fields__, **TrainSettings.__dataclass_fields__}
    for library, names in _OURS.items():
        for name, (ours, _) in names.items():
            assert name not in fields
            assert name.endswith("policy") or set(ours) <= {*fields, "run_dir"}, name
        assert not set(_ABSENT[library]) & set(fields)


def test_a_name_has_one_answer() -> None:
    names = Counter(name for table in (_OURS, _ABSENT) for each in table.values() for name in each)

    assert set(names.values()) == {1}


def test_theirs_exist() -> None:
    ppo = pytest.importorskip("stable_baselines3").PPO
    theirs = set(inspect.signature(ppo).parameters)
    ours = set(GRPOConfig.__dataclass_fields__) | {"policy", "env", "policy_kwargs"}
    rollout_buffer = {"rollout_buffer_class", "rollout_buffer_kwargs", "sde_sample_freq"}
    answered = set(_OURS["Stable-Baselines3"]) | set(_ABSENT["Stable-Baselines3"])
    assert not theirs - ours - answered - rollout_buffer - {"_init_setup_model"}


def test_other_settings_keep_their_hints() -> None:
    assert counterpart("gamma", ["num_servers", "preset"]) == ""
    assert suggest("gamma", ["gama"]) == " Did you mean 'gama'?"
    assert suggest("learning_starts", ["preset"]) == " Choose from: preset."
