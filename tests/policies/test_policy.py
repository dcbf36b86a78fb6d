import inspect
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces

from grpo_gym import GRPO
from grpo_gym.policies.network import MLPPolicy, Policy
from grpo_gym.policies.options import MLPOptions
from grpo_gym.settings import ConfigError
from grpo_gym.trainers.learning.batch import training_batch
from probe_envs import BestAction, Context, ManyChoices, Recall, Search, Target

SMALL: dict[str, Any] = {"num_groups": 2, "group_size": 4, "hidden_sizes": (8,)}
ENVS: dict[str, Any] = {
    "masks of unequal episodes": Search,
    "box actions": Target,
    "MultiDiscrete actions": ManyChoices,
    "Dict observations": lambda: Context("dict"),
    "LoadBalancer-v0": lambda: gym.make("LoadBalancer-v0", episode_length=30),
}


@pytest.mark.parametrize("kind", ["linear", "mlp"])
@pytest.mark.parametrize("name", ENVS)
def test_the_updated_policy_is_the_one_that_collected(name: str, kind: Any) -> None:
    """The ratio is exactly 1 before the first gradient step, whatever the statistics are."""
    model = GRPO(kind, ENVS[name], num_groups=3, group_size=4, learning_rate=0.003, seed=3)
    # Slowly enough that training does not end early, as it would once no group differs.
    model.learn(200)  # the normaliser has seen something, and the policy has moved
    normaliser = model.policy.normaliser
    assert normaliser is not None
    assert float(normaliser.count) >= 200
    rollout, estimate = model._collect()
    advantages = estimate.advantages
    advantages[rollout.alive] = 1.0  # nobody is left out
    batch = training_batch(rollout, advantages, model.config)
    assert len(batch) == rollout.num_steps
    with torch.no_grad():
        outputs = model.policy(batch.observations)
        now = model.policy.distribution(outputs, batch.action_masks)
        old = model.policy.distribution(batch.old_outputs, batch.action_masks)
        torch.testing.assert_close(
            now.log_prob(batch.actions), batch.old_log_probs, atol=1e-6, rtol=1e-6
        )
        assert float(old.kl(now).abs().max()) < 1e-6
    # The statistics matter: others would have made another policy.
    if name in ("masks of unequal episodes", "LoadBalancer-v0"):
        normaliser.update(rollout.observations[rollout.alive] + 3.0)
        with torch.no_grad():
            moved = model.policy(batch.observations)
        assert float((moved - batch.old_outputs).abs().max()) > 1e-3


def policy(**options: Any) -> Policy:
    torch.manual_seed(0)
    observation = spaces.Box(-1.0, 1.0, (3,), np.float32)
    return MLPPolicy(
        observation, spaces.Discrete(4), MLPOptions(**{"hidden_sizes": (8, 8), **options})
    )


def test_it_starts_nearly_uniform() -> None:
    network = policy()
    outputs = network(torch.randn(50, 3))
    probabilities = network.distribution(outputs).log_probs.exp()  # type: ignore[attr-defined]
    assert float((probabilities - 0.25).abs().max().detach()) < 0.02


def test_layers_are_as_asked() -> None:
    linear = policy(hidden_sizes=())
    assert [tuple(p.shape) for p in linear.parameters()] == [(4, 3), (4,)]
    relu = policy(hidden_sizes=(5, 6), activation="relu")
    assert [tuple(p.shape) for p in relu.parameters()][::2] == [(5, 3), (6, 5), (4, 6)]
    assert sum(isinstance(layer, torch.nn.ReLU) for layer in relu.network) == 2
    assert policy(normalise_observations=False).normaliser is None


def test_act_takes_the_most_probable_or_the_drawn_action() -> None:
    network = policy(normalise_observations=False)
    with torch.no_grad():
        last: Any = network.network[-1]
        last.bias.copy_(torch.tensor([0.0, 2.0, 3.0, 0.0]))
    observations = np.zeros((2, 3), np.float32)
    assert network.act(observations, None, None).tolist() == [2, 2]
    masks = np.array([[True, True, False, True], [False, False, False, True]])
    assert network.act(observations, masks, None).tolist() == [1, 3]
    noise = np.array([[0.0], [0.999]], np.float32)
    assert network.act(observations, None, noise).tolist() == [0, 3]


def test_rollouts_hold_what_the_environment_gave() -> None:
    """Not the normalised observations, whose statistics will move on."""
    model = GRPO("mlp", Recall, num_groups=2, group_size=2).learn(20)
    observations = model._collect()[0].observations
    assert set(observations.unique().tolist()) <= {0.0, 1.0}


# Predict

PREDICTED: dict[str, tuple[Any, tuple[int, ...]]] = {
    "Discrete": (BestAction, ()),
    "MultiDiscrete": (ManyChoices, (3,)),
    "Box": (Target, (2,)),
    "Dict observation": (lambda: Context("dict"), ()),
    "Discrete observation": (lambda: Context("discrete"), ()),
}


@pytest.mark.parametrize("case", PREDICTED)
def test_predict_takes_one_observation_or_many(case: str) -> None:
    env, shape = PREDICTED[case]
    model = GRPO("mlp", env, **SMALL)
    space = model.observation_space
    one = space.sample()
    many = gym.vector.utils.batch_space(space, 6).sample()
    for deterministic in (True, False):
        action, state = model.predict(one, "kept", np.array([True]), deterministic)
        assert state == "kept"
        assert np.shape(action) == shape
        assert model.action_space.contains(action)
        actions, state = model.predict(many, deterministic=deterministic)
        assert state is None
        assert actions.shape == (6, *shape)
        assert all(model.action_space.contains(each) for each in actions)
    best = [model.predict(one, deterministic=True)[0] for _ in range(2)]
    np.testing.assert_array_equal(*best)


def test_predict_samples_and_obeys_masks() -> None:
    model = GRPO("mlp", Search)
    observation = np.array([1, 1, 1, 0], np.int8)
    drawn = {int(model.predict(observation)[0]) for _ in range(60)}
    assert drawn == {0, 1, 2, 3}
    legal = np.array([1, 0, 1, 0], np.int8)
    masked = {int(model.predict(observation, action_masks=legal)[0]) for _ in range(60)}
    assert masked == {0, 2}
    rows = np.array([[0, 0, 0, 1], [1, 0, 0, 0]], bool)
    batch = model.predict(np.stack([observation] * 2), action_masks=rows, deterministic=True)[0]
    assert batch.tolist() == [3, 0]


def test_predict_refuses_observations_of_another_shape() -> None:
    with pytest.raises(ConfigError, match=r"observation must have shape \(4,\)"):
        GRPO("mlp", "CartPole-v1").predict(np.zeros(5, np.float32))


def test_predict_has_the_signature_of_stable_baselines3() -> None:
    parameters = list(inspect.signature(GRPO.predict).parameters.values())[1:5]
    assert [(p.name, p.default) for p in parameters] == [
        ("observation", inspect.Parameter.empty),
        ("state", None),
        ("episode_start", None),
        ("deterministic", False),
    ]


def test_models_work_with_what_expects_stable_baselines3() -> None:
    evaluation = pytest.importorskip("stable_baselines3.common.evaluation")
    mean, _ = evaluation.evaluate_policy(
        GRPO("mlp", "CartPole-v1"), gym.make("CartPole-v1"), 3, warn=False
    )
    assert mean > 0.0
