from typing import Any

import numpy as np
import pytest

from grpo_gym.rollouts.randomness import (
    ActionNoise,
    Stream,
    derive_seed,
    episode_seeds,
    group_generators,
)


def draws(steps: int, groups: int = 3, kind: Any = "uniform", **key: int) -> np.ndarray:
    noise = ActionNoise(
        kind,
        key.get("seed", 0),
        key.get("iteration", 0),
        range(groups),
        4,
        key.get("components", 2),
    )
    return np.stack([noise.draw() for _ in range(steps)])


def test_seeds_depend_on_every_part_of_their_key() -> None:
    keys = [(s, stream, i, g) for s in (0, 1) for stream in Stream for i in (0, 1) for g in (0, 1)]
    seeds = {derive_seed(s, stream, i, g) for s, stream, i, g in keys}
    assert len(seeds) == len(keys)
    assert all(0 <= seed < 2**62 for seed in seeds)
    assert derive_seed(1, Stream.EPISODES, 2, 3) == derive_seed(1, Stream.EPISODES, 2, 3)


def test_episode_seeds_do_not_depend_on_the_number_of_groups() -> None:
    assert (
        episode_seeds(0, 5, range(8), None)[:3].tolist()
        == episode_seeds(0, 5, range(3), None).tolist()
    )
    assert (
        episode_seeds(0, 5, range(8), 4)[:3, :2].tolist()
        == episode_seeds(0, 5, range(3), 2).tolist()
    )
    assert episode_seeds(0, 5, range(8), None).dtype == np.int64


def test_episode_seeds_are_all_different() -> None:
    shared = {int(s) for i in range(50) for s in episode_seeds(0, i, range(8), None)}
    assert len(shared) == 400
    unrelated = episode_seeds(0, 0, range(8), 16)
    assert unrelated.shape == (8, 16)
    assert len(np.unique(unrelated)) == 128


def test_noise_of_a_group_does_not_depend_on_the_others() -> None:
    many = draws(70, groups=5).reshape(70, 5, 4, 2)
    few = draws(70, groups=2).reshape(70, 2, 4, 2)
    np.testing.assert_array_equal(many[:, :2], few)
    np.testing.assert_array_equal(draws(70), draws(70))


def test_later_rounds_go_on_where_the_earlier_ones_ended() -> None:
    """Groups 3 to 7 of an iteration are the same whether or not they come in one round."""
    for size in (None, 2):
        later = episode_seeds(0, 5, range(3, 8), size)
        np.testing.assert_array_equal(later, episode_seeds(0, 5, range(8), size)[3:])
    whole = ActionNoise("uniform", 0, 0, range(5), 2, 1).draw().reshape(5, 2)
    rest = ActionNoise("uniform", 0, 0, range(3, 5), 2, 1).draw().reshape(2, 2)
    np.testing.assert_array_equal(rest, whole[3:])
    trunks = [g.random() for g in group_generators(0, Stream.TRUNKS, 1, range(5))]
    assert [g.random() for g in group_generators(0, Stream.TRUNKS, 1, range(3, 5))] == trunks[3:]
    others = [g.random() for g in group_generators(0, Stream.ACTIONS, 1, range(5))]
    assert len({*trunks, *others}) == 10


@pytest.mark.parametrize("key", [{"seed": 1}, {"iteration": 1}])
def test_noise_depends_on_seed_and_iteration(key: dict[str, int]) -> None:
    assert not (draws(3) == draws(3, **key)).any()


def test_noise_never_repeats_within_an_episode() -> None:
    values = draws(100)
    assert values.dtype == np.float32
    assert values.shape == (100, 12, 2)
    assert len(np.unique(values)) > 0.99 * values.size
    assert values.min() >= 0.0
    assert values.max() < 1.0
    normal = draws(400, kind="normal")
    assert normal.mean() == pytest.approx(0.0, abs=0.05)
    assert normal.std() == pytest.approx(1.0, abs=0.05)
