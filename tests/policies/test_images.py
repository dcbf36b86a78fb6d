"""The policies `cnn` and `combined`."""

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.wrappers import FrameStackObservation, TimeLimit

from grpo_gym.policies import combined
from grpo_gym.policies.cnn import ImageEncoder, ImageLayout, image_layout
from grpo_gym.policies.combined import CNNPolicy, CombinedPolicy
from grpo_gym.policies.options import CNNOptions, CombinedOptions, NetworkConfig
from grpo_gym.rollouts.spaces import flatten_batch, flatten_one
from grpo_gym.settings import ConfigError
from grpo_gym.trainers.grpo import GRPO
from image_envs import Side, SideOrNot

ACTIONS = spaces.Discrete(3)


def pixels(*shape: int) -> spaces.Box:
    return spaces.Box(0, 255, shape, np.uint8)


@pytest.mark.parametrize(
    ("shape", "channels_last", "wanted"),
    [
        ((9, 7), None, ImageLayout(1, 1, 9, 7, False)),
        ((9, 7, 3), None, ImageLayout(1, 3, 9, 7, True)),
        ((3, 9, 7), None, ImageLayout(1, 3, 9, 7, False)),
        ((4, 4, 4), None, ImageLayout(1, 4, 4, 4, False)),  # as Stable-Baselines3: first of equals
        ((9, 3, 7), None, ImageLayout(1, 7, 9, 3, True)),  # as Stable-Baselines3
        ((8, 7, 7), False, ImageLayout(1, 8, 7, 7, False)),
        ((2, 9, 7), True, ImageLayout(1, 7, 2, 9, True)),
        ((4, 84, 84), None, ImageLayout(1, 4, 84, 84, False)),
        ((4, 84, 84, 1), None, ImageLayout(4, 1, 84, 84, True)),
        ((4, 96, 96, 3), None, ImageLayout(4, 3, 96, 96, True)),
        ((2, 3, 9, 7), None, ImageLayout(2, 3, 9, 7, False)),
    ],
)
def test_channels_are_found(
    shape: tuple[int, ...], channels_last: bool | None, wanted: ImageLayout
) -> None:
    assert image_layout(pixels(*shape), channels_last) == wanted


def test_all_orders_of_axes_are_one_image() -> None:
    """Two stacked frames of three channels; the reference is laid out by hand."""
    rng = np.random.default_rng(0)
    planes = rng.integers(0, 256, (2, 3, 9, 7), np.uint8)
    wanted = torch.from_numpy(planes.reshape(1, 6, 9, 7)).float()
    last = planes.transpose(0, 2, 3, 1)
    for image, history in ((planes, 1), (last, 1), (planes, 2), (last, 2)):
        space = pixels(*image.shape[history - 1 :])
        layout = image_layout(space, None)
        encoder = ImageEncoder(layout, history, CNNOptions())
        found = encoder[0](torch.from_numpy(image.reshape(1, history, -1)).float())
        torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize(
    ("shape", "options", "first", "size"),
    [
        ((4, 84, 84), {}, (32, 4, 8, 8), 512),
        ((36, 36, 3), {}, (32, 3, 8, 8), 512),
        ((35, 36, 3), {}, (32, 3, 3, 3), 128),
        ((7, 7, 3), {}, (32, 3, 3, 3), 128),
        ((1, 1), {}, (32, 1, 3, 3), 128),
        ((40, 40, 3), {"convolutions": "small"}, (32, 3, 3, 3), 128),
        ((7, 7, 3), {"frame_history": 4}, (32, 12, 3, 3), 128),
    ],
)
def test_layers_fit_the_size(
    shape: tuple[int, ...], options: dict[str, Any], first: tuple[int, ...], size: int
) -> None:
    policy = CNNPolicy(pixels(*shape), ACTIONS, CNNOptions(**options))
    assert policy.state_dict()["encoder.of_parts.0.1.weight"].shape == first
    assert policy.encoder.size == size
    width = policy.frame_history * int(np.prod(shape))
    assert policy(torch.zeros(2, 5, width, dtype=torch.uint8)).shape == (2, 5, 3)


def test_pictures_are_scaled_and_grids_are_normalised() -> None:
    rng = np.random.default_rng(0)
    cases: list[tuple[tuple[int, ...], dict[str, Any], bool]] = [
        ((40, 40), {}, True),
        ((40, 40), {"normalise_observations": True}, False),
        ((7, 7, 3), {}, False),
        ((7, 7, 3), {"normalise_observations": False}, True),
    ]
    for shape, options, scaled in cases:
        policy = CNNPolicy(pixels(*shape), ACTIONS, CNNOptions(**options))
        rows = torch.from_numpy(rng.integers(0, 256, (50, int(np.prod(shape))), np.uint8))
        policy.observe(rows)
        found = policy.features(rows)
        if scaled:
            torch.testing.assert_close(found, rows.float() / 255.0)
        else:
            torch.testing.assert_close(
                found.mean(dim=0), torch.zeros(rows.shape[1]), atol=1e-4, rtol=0
            )


def test_parts_are_seen_where_they_are() -> None:
    """Features of pictures are scaled, vectors normalised; the sum of weights is as by hand."""
    space = spaces.Dict(
        {
            "speed": spaces.Box(-np.inf, np.inf, (2,), np.float32),
            "camera": pixels(40, 36, 3),
            "inside": spaces.Tuple((spaces.Discrete(4), pixels(5, 5))),
        }
    )
    space.seed(0)
    policy = CombinedPolicy(space, ACTIONS, CombinedOptions())
    samples = [space.sample() for _ in range(30)]
    rows = np.concatenate([flatten_one(space, sample) for sample in samples])
    policy.observe(torch.from_numpy(rows))
    features = policy.features(torch.from_numpy(rows)).numpy()
    keys = list(space.spaces)  # in the order of the space
    columns = {"camera": 4320, "inside": 29, "speed": 2}
    edges = np.cumsum([0, *(columns[key] for key in keys)])
    found = {key: features[:, edges[i] : edges[i + 1]] for i, key in enumerate(keys)}
    camera = np.stack([sample["camera"] for sample in samples]).reshape(30, -1)
    np.testing.assert_allclose(found["camera"], camera / 255.0, atol=1e-6)
    speed = np.stack([sample["speed"] for sample in samples])
    wanted = (speed - speed.mean(axis=0)) / speed.std(axis=0)
    np.testing.assert_allclose(found["speed"], wanted, atol=1e-5)
    assert policy.encoder.size == 512 + 128 + 4 + 2


@pytest.mark.parametrize(
    "actions", [spaces.MultiDiscrete([2, 3]), spaces.Box(-1.0, 1.0, (2,), np.float32)]
)
def test_other_actions(actions: gym.Space[Any]) -> None:
    class Many(Side):
        def __init__(self) -> None:
            super().__init__((8, 8, 1))
            self.action_space = actions

        def reward(self, action: Any) -> float:
            assert actions.contains(action)
            return float(action[0])

    model = GRPO("cnn", Many, num_groups=2, group_size=4).learn(64)
    assert actions.contains(model.predict(pixels(8, 8, 1).sample())[0])


def test_parts_of_a_minibatch_give_the_gradient_of_the_whole(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    space = SideOrNot().observation_space
    space.seed(0)
    batch: Any = [space.sample() for _ in range(7)]
    rows = torch.from_numpy(np.concatenate([flatten_one(space, each) for each in batch]))
    gradients = []
    for numbers in (10**9, 60_000):  # all rows at once, or three
        monkeypatch.setattr(combined, "_NUMBERS_AT_ONCE", numbers)
        torch.manual_seed(0)
        policy = CombinedPolicy(space, ACTIONS, CombinedOptions())
        policy(rows).square().sum().backward()
        assert (policy._rows_at_once < 7) == (numbers == 60_000)
        gradients.append([parameter.grad for parameter in policy.parameters()])
    for whole, in_parts in zip(*gradients, strict=True):
        torch.testing.assert_close(whole, in_parts, atol=1e-7, rtol=1e-4)


def test_states_are_told_apart_by_what_the_encoder_makes_of_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    space = SideOrNot().observation_space
    space.seed(0)
    batch: Any = [space.sample() for _ in range(6)]
    rows = torch.from_numpy(np.concatenate([flatten_one(space, each) for each in batch]))
    monkeypatch.setattr(combined, "_NUMBERS_AT_ONCE", 60_000)
    policy = CombinedPolicy(space, ACTIONS, CombinedOptions())
    states = policy.state_features(rows.reshape(2, 3, -1))
    assert states.shape == (2, 3, policy.state_size)
    last = policy.network(states.reshape(6, -1))
    torch.testing.assert_close(policy.head.complete(last), policy(rows))


def test_values_of_states_are_fitted_on_images() -> None:
    class Given(Side):
        def reward(self, action: Any) -> float:
            return float(self.right)

    make = lambda: Given((40, 40, 1))  # noqa: E731
    model = GRPO("cnn", make, num_groups=16, group_size=8, baseline="state", discount=0.1)
    assert model.train_iteration().explained_variance > 0.8


@pytest.mark.parametrize(
    ("shape", "axis"), [((12, 12, 1), 1), ((1, 12, 12), 2), ((12, 12), 1), ((3, 12, 12, 1), 2)]
)
def test_a_side_is_learned(shape: tuple[int, ...], axis: int) -> None:
    model = GRPO("cnn", lambda: Side(shape, axis), num_groups=8, group_size=8).learn(2_000)
    assert model.evaluate(50).mean_return > 3.7  # 2 by chance, 4 at best


def test_a_large_image_is_learned() -> None:
    make = lambda: Side((40, 40, 1))  # noqa: E731
    model = GRPO("cnn", make, num_groups=8, group_size=8, learning_rate=1e-3).learn(5_000)
    assert model.evaluate(50).mean_return > 3.4


def test_stacked_frames_are_learned() -> None:
    def make() -> gym.Env[Any, Any]:
        return FrameStackObservation(Side((12, 12)), 4)

    model = GRPO("cnn", make, num_groups=8, group_size=8).learn(2_000)
    assert model.evaluate(50).mean_return > 3.7


def test_image_and_switch_are_learned_together() -> None:
    model = GRPO("combined", lambda: SideOrNot(8), num_groups=16, group_size=8).learn(15_000)
    assert model.evaluate(50).mean_return > 3.4  # 2 with either alone


def test_rollouts_hold_bytes(tmp_path: Path) -> None:
    for policy, make, width in (
        ("cnn", Side, 144),
        ("mlp", Side, 144),
        ("combined", SideOrNot, 144 + 4 * 4),
    ):
        model = GRPO(policy, make, num_groups=2, group_size=2, frame_history=3)
        rollout = model.prepare().collect(model.policy, 0)
        assert rollout.observations.dtype == torch.uint8
        assert rollout.observations.shape == (4, 2, 2, 3 * width)
        model.learn(16)
        model.save(tmp_path / "model")
        loaded = GRPO.load(tmp_path / "model", env=make)
        assert loaded.weights_sha256() == model.weights_sha256()
        observation = make().reset(seed=3)[0]
        np.testing.assert_array_equal(
            loaded.predict(observation, deterministic=True)[0],
            model.predict(observation, deterministic=True)[0],
        )


@pytest.mark.parametrize(
    "settings",
    [
        {"grouping": "branch", "branch_every": 2},
        {"learned_baseline": True},
        {"baseline": "state_bin"},
        {"anchor_weight": 1.0},
        {"kl_coefficient": 0.1, "kl_reference": "moving_average"},
        {"update": "trust_region"},
        {"frame_history": 2},
        {"refill_rounds": 1},
    ],
    ids=str,
)
@pytest.mark.parametrize(("policy", "make"), [("cnn", Side), ("combined", SideOrNot)])
def test_everything_else_works_with_images(
    policy: str, make: type[Side], settings: dict[str, Any]
) -> None:
    model = GRPO(policy, make, num_groups=2, group_size=4, **settings)
    before = model.weights_sha256()
    model.learn(64)
    assert model.weights_sha256() != before


def test_what_is_no_image_is_refused() -> None:
    vector = spaces.Box(-1.0, 1.0, (3,), np.float32)
    with pytest.raises(ConfigError, match=r"must be an image, .* 'cnn', got Box.*use 'combined'"):
        CNNPolicy(vector, ACTIONS, CNNOptions())
    with pytest.raises(ConfigError, match="must be an image"):
        CNNPolicy(spaces.Dict({"a": pixels(7, 7)}), ACTIONS, CNNOptions())
    with pytest.raises(ConfigError, match=r"must have an image, .* 'combined', .*: use 'mlp'"):
        CombinedPolicy(spaces.Dict({"a": vector}), ACTIONS, CombinedOptions())
    with pytest.raises(ConfigError, match=r'must be "small" .* 36 x 36, got "nature"'):
        CNNPolicy(pixels(35, 84), ACTIONS, CNNOptions(convolutions="nature"))
    with pytest.raises(ConfigError, match="convolutions"):
        NetworkConfig(convolutions="huge")  # type: ignore[arg-type]


def test_images_that_would_not_fit_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four stacked frames take 28,224 bytes a step, and not four times as many."""

    def make() -> gym.Env[Any, Any]:
        return TimeLimit(Side((4, 84, 84), 2), 200)

    model = GRPO("cnn", make, num_groups=8, group_size=8, minibatch_size=64)
    monkeypatch.setenv("GRPO_GYM_MEMORY_GB", "1.0")
    with pytest.raises(ConfigError, match=r"size 8 x 200 steps must .* got about 1\.1 GB"):
        model.prepare()
    monkeypatch.setenv("GRPO_GYM_MEMORY_GB", "1.2")
    model.prepare()


def test_a_batch_of_vectors_is_the_batch_of_single_ones() -> None:
    space = SideOrNot().observation_space
    space.seed(1)
    samples: Any = [space.sample() for _ in range(3)]
    together = {key: np.stack([each[key] for each in samples]) for key in samples[0]}
    wanted = np.concatenate([flatten_one(space, each) for each in samples])
    np.testing.assert_array_equal(flatten_batch(space, together), wanted)
