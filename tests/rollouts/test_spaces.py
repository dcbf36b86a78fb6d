from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.vector.utils import batch_space, concatenate, create_empty_array

from grpo_gym.policies.network import row_features
from grpo_gym.rollouts.rows import row_format
from grpo_gym.rollouts.spaces import flat_size, flatten_batch, flatten_one, is_batch, sample_batch
from grpo_gym.settings import ConfigError

NESTED = spaces.Dict(
    {
        "b": spaces.Box(-1.0, 1.0, (2, 2), np.float32),
        "a": spaces.Tuple((spaces.Discrete(3, start=2), spaces.MultiBinary(2))),
        "c": spaces.Dict({"z": spaces.MultiDiscrete([2, 3]), "y": spaces.Discrete(4)}),
    }
)
PIXELS = spaces.Box(0, 255, (5, 3, 3), np.uint8)
SPACES: dict[str, gym.Space[Any]] = {
    "box": spaces.Box(-3.0, 3.0, (3,), np.float32),
    "image": spaces.Box(0, 255, (2, 3, 3), np.uint8),
    "scalar": spaces.Box(-1.0, 1.0, (), np.float64),
    "discrete": spaces.Discrete(5),
    "discrete from 7": spaces.Discrete(4, start=7),
    "multibinary": spaces.MultiBinary(4),
    "multibinary board": spaces.MultiBinary([2, 3]),
    "multidiscrete": spaces.MultiDiscrete([2, 5, 3]),
    "multidiscrete from": spaces.MultiDiscrete([2, 3], start=[-1, 5]),
    "multidiscrete board": spaces.MultiDiscrete(np.array([[2, 3], [4, 2]])),
    "tuple": spaces.Tuple((spaces.Discrete(3), spaces.Box(0.0, 1.0, (2,), np.float32))),
    "nested": NESTED,
    "images": spaces.Dict({"left": PIXELS, "right": PIXELS}),
    "image and others": spaces.Dict(
        {"camera": PIXELS, "key": spaces.Discrete(3), "speed": spaces.Box(-1.0, 1.0, (2,))}
    ),
    "images between others": spaces.Tuple(
        (spaces.Box(-1.0, 1.0, (1,)), PIXELS, spaces.Dict({"a": spaces.Discrete(2), "b": PIXELS}))
    ),
}


@pytest.mark.parametrize("space", SPACES.values(), ids=SPACES.keys())
def test_batches_are_flattened_as_gymnasium_flattens_each(space: gym.Space[Any]) -> None:
    space.seed(0)
    samples = [space.sample() for _ in range(20)]
    # As vector environments give them.
    empty: Any = create_empty_array(space, n=20)
    batch = concatenate(space, samples, empty)
    flat = flatten_batch(space, batch)
    one_by_one: list[Any] = [spaces.flatten(space, sample) for sample in samples]
    wanted = np.stack(one_by_one).astype(np.float32)
    rows = row_format(space)
    assert flat.dtype == rows.dtype
    assert flat.shape == (20, rows.width)
    for features in (rows.features(flat), row_features(rows, torch.from_numpy(flat)).numpy()):
        assert features.dtype == np.float32
        assert features.shape == (20, flat_size(space))
        np.testing.assert_array_equal(features, wanted)
    one = flatten_one(space, samples[3])
    np.testing.assert_array_equal(row_features(rows, torch.from_numpy(one)), wanted[3:4])


def test_pixels_take_a_byte_each() -> None:
    assert row_format(PIXELS).num_bytes == row_format(SPACES["images"]).num_bytes / 2 == 45
    mixed = row_format(SPACES["image and others"])
    assert mixed.num_bytes == 45 + 4 * (3 + 2)
    assert row_format(SPACES["nested"]).num_bytes == 4 * flat_size(SPACES["nested"])


def test_what_is_not_finite_beside_pixels_is_found() -> None:
    space = SPACES["images between others"]
    space.seed(0)
    numbers, pixels, others = space.sample()
    row = flatten_one(space, (np.array([np.nan], np.float32), pixels, others))
    assert np.isnan(row_format(space).floats(row)[0, 0])
    assert np.isfinite(
        row_format(space).floats(flatten_one(space, (numbers, pixels, others)))
    ).all()


@pytest.mark.parametrize("value", [0.5, -1.0, 256.0, np.nan])
def test_numbers_that_are_no_bytes_are_refused(value: float) -> None:
    image = np.zeros((5, 3, 3))
    assert flatten_one(PIXELS, image).dtype == np.uint8  # whole numbers of another type are fine
    image[1, 2, 0] = value
    with pytest.raises(ConfigError, match=f"whole numbers from 0 to 255, .* got {value}"):
        flatten_one(PIXELS, image)


def test_parts_without_fixed_features_are_named_with_the_way_out() -> None:
    mission = spaces.Dict({"image": PIXELS, "mission": spaces.Text(9)})
    with pytest.raises(ConfigError, match=r"Text.* part \['mission'\]: .*ImgObsWrapper\(env\)"):
        flat_size(mission)
    other = spaces.Dict({"a": spaces.Tuple((spaces.Text(3),)), "b": spaces.Discrete(2)})
    with pytest.raises(ConfigError, match=r"\['a'\]\[0\]: .*FilterObservation\(env, \['b'\]\)"):
        flat_size(other)


@pytest.mark.parametrize("space", SPACES.values(), ids=SPACES.keys())
def test_one_is_told_from_many(space: gym.Space[Any]) -> None:
    assert not is_batch(space, space.sample())
    for number in (1, 3):
        assert is_batch(space, batch_space(space, number).sample())


def test_other_shapes_are_neither() -> None:
    with pytest.raises(ConfigError, match=r"must have shape \(3,\) or .*got \(4,\)"):
        is_batch(SPACES["box"], np.zeros(4))
    with pytest.raises(ConfigError, match="got"):
        is_batch(SPACES["box"], np.zeros((2, 2, 3)))


@pytest.mark.parametrize(
    "space",
    [
        spaces.Text(4),
        spaces.Sequence(spaces.Discrete(2)),
        spaces.Graph(spaces.Discrete(2), None),
        spaces.OneOf((spaces.Discrete(2), spaces.Discrete(3))),
        spaces.Dict({"a": spaces.Discrete(2), "b": spaces.Text(3)}),
        spaces.Tuple((spaces.Discrete(2), spaces.Sequence(spaces.Discrete(2)))),
    ],
)
def test_observations_without_fixed_features_are_refused(space: gym.Space[Any]) -> None:
    with pytest.raises(ConfigError, match="observation space must be"):
        flat_size(space)


@pytest.mark.parametrize(
    ("space", "mask", "legal"),
    [
        (gym.spaces.Discrete(3), [0, 1, 1], {1, 2}),
        (gym.spaces.MultiDiscrete([2, 3]), [1, 0, 0, 1, 1], {(0, 1), (0, 2)}),
    ],
)
def test_random_actions_are_those_that_the_mask_allows(
    space: gym.Space, mask: list[int], legal: set
) -> None:
    actions = sample_batch(space, 50, np.tile(np.array(mask, np.bool_), (50, 1)))
    chosen = {tuple(a) if np.ndim(a) else int(a) for a in actions.tolist()}
    assert chosen == legal
