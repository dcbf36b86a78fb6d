"""What is not finite, or does not fit, gets no action: never action 0 with probabilities of NaN."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from grpo_gym import GRPO
from grpo_gym.settings import ConfigError
from grpo_gym.storage.checkpoint import CheckpointError
from grpo_gym.trainers.online import OnlineGRPO, OnlinePolicy
from memory_envs import Echo
from probe_envs import BestAction, Context, ManyChoices, Search, Target

SMALL: dict[str, Any] = {"num_groups": 2, "group_size": 4}
ONE = np.array([0.0, 1.0, 0.0], np.float32)
Spoil = Callable[[GRPO], None]


def fill(number: float) -> Spoil:
    def spoil(model: GRPO) -> None:
        last: Any = model.policy.network[-1]
        last.weight.data.fill_(number)

    return spoil


def spoil_statistics(model: GRPO) -> None:
    assert model.policy.normaliser is not None
    model.policy.normaliser.scale.fill_(math.nan)


# Observations


BAD = [math.nan, math.inf, -math.inf, 1e300]


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("deterministic", [True, False])
def test_observations_that_are_not_finite(bad: float, deterministic: bool) -> None:
    model = GRPO("mlp", Context, **SMALL)
    spoilt = ONE.astype(np.float64)
    spoilt[2] = bad
    with pytest.raises(ConfigError, match=r"observation must be finite, got .* \(feature 2\)"):
        model.predict(spoilt, deterministic=deterministic)
    with pytest.raises(ConfigError, match=r"observation must be finite, got"):
        model.probabilities(spoilt)
    many = np.stack([ONE, spoilt])
    with pytest.raises(ConfigError, match=r"got .* \(observation 1, feature 2\): look at what"):
        model.predict(many, deterministic=deterministic)


def test_an_observation_of_a_dictionary() -> None:
    model = GRPO("linear", lambda: Context("dict"), **SMALL)
    fits = {"parity": np.array([1], np.int8), "context": 1}
    assert model.predict(fits)[0] in range(3)
    for wrong, message in (
        ({**fits, "context": 3}, r"observation\['context'\] must be in .* from 0 to 2"),
        ({**fits, "context": -1}, r"observation\['context'\] must be in .* from 0 to 2"),
        ({**fits, "parity": np.array([2])}, r"observation\['parity'\] must be 0 or 1 everywhere"),
        ({"context": 1}, "observation must have"),
        (None, "observation must have a part"),
        (np.zeros(4), "observation must have a part"),
    ):
        with pytest.raises(ConfigError, match=message):
            model.predict(wrong)


_SHAPE = r"observation must (have shape \(3,\) or \(batch, 3\), got|be an array)"


@pytest.mark.parametrize("wrong", [None, "text", [1.0, [2.0, 3.0]], np.zeros(4), object()])
def test_an_observation_of_another_shape(wrong: Any) -> None:
    with pytest.raises(ConfigError, match=_SHAPE):
        GRPO("linear", Context, **SMALL).predict(wrong)


# Weights


@pytest.mark.parametrize("env", [Context, ManyChoices, Target, Echo])
@pytest.mark.parametrize("spoil", [fill(math.nan), fill(math.inf), spoil_statistics])
def test_damaged_weights_give_no_action(env: Any, spoil: Spoil) -> None:
    model = GRPO("mlp", env, **SMALL)
    observation = model.observation_space.sample()
    model.predict(observation)
    spoil(model)
    for deterministic in (True, False):
        with pytest.raises(FloatingPointError, match="the policy's outputs must be finite"):
            model.predict(observation, deterministic=deterministic)
        with pytest.raises(FloatingPointError, match="the policy's outputs must be finite"):
            model.evaluate(3, deterministic=deterministic)
    with pytest.raises(FloatingPointError, match=r"the policy's outputs must|actions for \w+ must"):
        model.learn(100)
    if env is Context:
        with pytest.raises(FloatingPointError, match="the policy's outputs must be finite"):
            model.probabilities(observation)


@pytest.mark.parametrize("number", [math.nan, math.inf])
def test_damaged_weights_are_not_loaded(number: float, tmp_path: Path) -> None:
    model = GRPO("mlp", "CartPole-v1", **SMALL)
    fill(number)(model)
    model.save(tmp_path / "m.ckpt")
    with pytest.raises(CheckpointError, match="must be finite"):
        GRPO.load(tmp_path / "m.ckpt")


def test_an_update_that_spoils_the_weights_ends_training() -> None:
    model = GRPO("mlp", BestAction, **SMALL, epochs=1, num_minibatches=1)
    model.optimizer.step = lambda weights, gradient: weights.fill_(math.inf)
    with pytest.raises(FloatingPointError, match="weights are not finite after an update"):
        model.learn(100)
    assert model.iteration == 0
    assert model.is_updating  # it must not be saved


# Masks


MASKS: dict[str, tuple[Any, Any, str]] = {
    "all false": (Search, np.zeros(4, np.bool_), "action_mask must allow an action, got none"),
    "short": (Search, np.ones(3, np.bool_), r"action_mask must have shape \(4,\), got \(3,\)"),
    "floats": (Search, np.full(4, 0.5), "action_mask must be bool, or 0 and 1, got float64"),
    "more than observations": (Search, np.ones((3, 4), np.bool_), "one for each of 1, got 3"),
    "a part": (ManyChoices, np.array([0, 0, *[1] * 7]), "must allow an action, got none"),
    "of a box": (Target, np.ones(1, np.bool_), "action_mask must come with discrete actions"),
}


@pytest.mark.parametrize("case", MASKS)
def test_masks_that_do_not_fit(case: str) -> None:
    env, mask, message = MASKS[case]
    model = GRPO("linear", env, **SMALL)
    observation = model.observation_space.sample()
    with pytest.raises(ConfigError, match=message):
        model.predict(observation, action_masks=mask)
    if env is Search:
        with pytest.raises(ConfigError, match=message):
            model.probabilities(observation, mask)


def test_masks_in_all_their_forms() -> None:
    model = GRPO("linear", ManyChoices, **SMALL)
    observation = model.observation_space.sample()
    parts = (np.array([0, 1]), np.array([0, 0, 0, 1]), np.array([1, 0, 0]))
    joined = np.concatenate(parts)
    for mask in (parts, joined, joined[None], joined.tolist(), joined.astype(np.bool_)):
        assert model.predict(observation, action_masks=mask)[0].tolist() == [1, 3, 0]
    many = np.stack([observation] * 2)
    for mask in (joined, np.stack([joined] * 2)):
        assert model.predict(many, action_masks=mask)[0].tolist() == [[1, 3, 0]] * 2


# Online GRPO


@pytest.mark.parametrize("number", [math.nan, math.inf])
def test_online_policies_with_damaged_weights_choose_nothing(number: float) -> None:
    policy = OnlinePolicy(4, 3)
    features = np.arange(12.0).reshape(4, 3)
    policy.choose(features)
    policy.weights[1] = number
    for ask in (policy.choose, policy.probabilities):
        with pytest.raises(FloatingPointError, match="the weights must be finite"):
            ask(features)
    assert policy.decisions == 1


@pytest.mark.parametrize("shape", [(3,), (4,), (1, 3), (3, 4), (4, 3, 1), ()])
def test_features_of_another_shape_are_not_spread_over_all_actions(shape: tuple[int, ...]) -> None:
    policy = OnlinePolicy(4, 3)
    for ask in (policy.choose, policy.probabilities):
        with pytest.raises(ValueError, match=r"features must have shape \(4, 3\), got"):
            ask(np.ones(shape))


def test_an_online_model_refuses_what_is_not_finite() -> None:
    model = OnlineGRPO(env_kwargs={"preset": "hetero2"})
    observation = model.observation_space.sample()
    model.predict(observation)
    with pytest.raises(ConfigError, match="observation must be finite"):
        model.predict(np.full_like(observation, math.nan))
    with pytest.raises(ConfigError, match="observation must be finite"):
        model.probabilities(np.full_like(observation, math.inf))
    model.policy.weights[:] = math.nan
    for ask in (model.predict, model.probabilities):
        with pytest.raises(FloatingPointError, match="weights must be finite"):
            ask(observation)


def test_policies_that_overflow_are_noticed() -> None:
    model = GRPO("mlp", Context, **SMALL, normalise_observations=False, activation="relu")
    huge = np.full(3, 3e38, np.float32)
    with torch.no_grad():
        for parameter in model.policy.parameters():
            parameter.fill_(1e20)
    with pytest.raises(FloatingPointError, match="an observation is too large for it"):
        model.predict(huge)
