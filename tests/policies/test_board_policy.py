"""The convolutional policy over the cells of a board."""

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces

from grpo_gym import GRPO
from grpo_gym.envs.battleship.vector_env import BattleshipVectorEnv
from grpo_gym.policies.board import BoardPolicy
from grpo_gym.policies.network import Policy
from grpo_gym.policies.options import BoardOptions, PolicyOptions
from grpo_gym.policies.symmetries import board_symmetries
from grpo_gym.settings import ConfigError
from grpo_gym.storage.checkpoint import CheckpointError
from grpo_gym.trainers.learning.batch import training_batch, transformed

SMALL: dict[str, Any] = {"num_groups": 2, "group_size": 4, "channels": 6, "blocks": 1}
MICROGRPO: dict[str, Any] = {"preset": "microgrpo-5x5", "reward": "hits"}


def board_policy(
    images: int = 3, rows: int = 5, columns: int = 7, spread: float = 0.0, **options: Any
) -> BoardPolicy:
    """With `spread`, all weights get noise, so that nothing is near zero any more."""
    torch.set_num_threads(1)  # as GRPO does
    torch.manual_seed(0)
    policy = BoardPolicy(
        spaces.Box(0.0, 1.0, (images, rows, columns), np.float32),
        spaces.Discrete(rows * columns),
        BoardOptions(**{"channels": 8, "blocks": 1, **options}),
    )
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.add_(spread * torch.randn_like(parameter))
    return policy


def scores(policy: BoardPolicy, images: torch.Tensor) -> torch.Tensor:
    """Scores as images, (..., H, W), of observations (..., C, H, W)."""
    with torch.no_grad():
        found: torch.Tensor = policy(images.flatten(-3))
    return found.unflatten(-1, images.shape[-2:])


# Shapes and spaces


@pytest.mark.parametrize("leading", [(), (1,), (6,), (4, 3), (2, 1, 3)])
@pytest.mark.parametrize("blocks", [0, 2])
def test_scores_have_the_leading_axes_of_observations(
    leading: tuple[int, ...], blocks: int
) -> None:
    policy = board_policy(blocks=blocks, spread=0.3)
    observations = torch.rand(*leading, 3 * 5 * 7)
    with torch.no_grad():
        found = policy(observations)
        assert found.shape == (*leading, 35)
        rows = policy(observations.reshape(-1, 105))
    torch.testing.assert_close(found.reshape(-1, 35), rows)
    each = torch.stack([scores(policy, row.reshape(3, 5, 7)) for row in observations.view(-1, 105)])
    torch.testing.assert_close(each.flatten(-2), rows, atol=1e-5, rtol=1e-5)


def test_an_empty_batch_has_no_scores() -> None:
    plain = Policy(spaces.Box(0.0, 1.0, (3, 5, 7)), spaces.Discrete(35), PolicyOptions())
    assert plain(torch.zeros(0, 105)).shape == (0, 35)
    assert board_policy()(torch.zeros(0, 105)).shape == (0, 35)


def test_one_image_needs_no_axis_of_its_own() -> None:
    policies = []
    for shape in ((4, 5), (1, 4, 5)):
        torch.manual_seed(3)
        box = spaces.Box(-1.0, 1.0, shape, np.float32)
        policies.append(BoardPolicy(box, spaces.Discrete(20), BoardOptions(channels=4, blocks=1)))
        assert policies[-1].board_shape == (1, 4, 5)
    observations = torch.rand(3, 20)
    assert torch.equal(policies[0](observations), policies[1](observations))


BOX = spaces.Box(0.0, 1.0, (3, 4, 5), np.float32)
REFUSED: list[tuple[gym.Space[Any], gym.Space[Any], str]] = [
    (spaces.Box(0.0, 1.0, (20,)), spaces.Discrete(20), r"channels, .*use the policy 'mlp'"),
    (spaces.Box(0.0, 1.0, (2, 3, 4, 5)), spaces.Discrete(20), "must be a Box of channels"),
    (spaces.Discrete(20), spaces.Discrete(20), "must be a Box of channels"),
    (spaces.Dict({"board": BOX}), spaces.Discrete(20), "must be a Box of channels"),
    (BOX, spaces.Discrete(19), r"action space must be Discrete\(20\), .*got Discrete\(19\)"),
    (BOX, spaces.Discrete(60), r"action space must be Discrete\(20\)"),
    (BOX, spaces.MultiDiscrete([20]), r"action space must be Discrete\(20\)"),
    (BOX, spaces.Box(-1.0, 1.0, (20,)), r"action space must be Discrete\(20\)"),
]


@pytest.mark.parametrize(("observation", "action", "message"), REFUSED)
def test_other_spaces_are_refused(
    observation: gym.Space[Any], action: gym.Space[Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        BoardPolicy(observation, action, BoardOptions(channels=4, blocks=1))


def test_other_environments_and_names_are_refused() -> None:
    with pytest.raises(ConfigError, match="must be a Box of channels"):
        GRPO("board", "LoadBalancer-v0")
    with pytest.raises(ConfigError, match="must be a Box of channels"):
        GRPO("board", "Battleship-v0", env_kwargs={"observation": "flat"})
    with pytest.raises(ConfigError, match=r"'bord'.*Did you mean 'board'\?"):
        GRPO("bord", "Battleship-v0")


def test_it_starts_nearly_uniform() -> None:
    policy = board_policy(channels=32, blocks=2)
    with torch.no_grad():
        outputs = policy(torch.rand(50, 105).round())
        probabilities = policy.distribution(outputs).log_probs.exp()  # type: ignore[attr-defined]
    assert float((probabilities * 35 - 1.0).abs().max()) < 0.25
    assert float(outputs.std()) > 0.0


# One set of weights for all boards


def test_the_same_weights_play_on_boards_of_another_size() -> None:
    small, large = board_policy(rows=5, columns=5, spread=0.2, blocks=0), board_policy(
        rows=12, columns=9, blocks=0
    )  # fmt: skip
    large.load_state_dict(small.state_dict())
    torch.manual_seed(1)
    images = torch.rand(4, 3, 5, 5)
    beyond = torch.zeros(4, 3, 12, 9)
    beyond[..., :5, :5] = images
    found, wanted = scores(large, beyond), scores(small, images)
    # The corner is one on both boards; only the small one ends at its fifth row and column.
    torch.testing.assert_close(found[:, :4, :4], wanted[:, :4, :4], atol=1e-6, rtol=1e-5)
    assert not torch.allclose(found[:, 4, :5], wanted[:, 4], atol=1e-3)


def test_the_size_is_in_no_weight() -> None:
    shapes = [
        {name: tensor.shape for name, tensor in policy.state_dict().items()}
        for policy in (board_policy(rows=5, columns=5), board_policy(rows=16, columns=3))
    ]
    assert shapes[0] == shapes[1]
    policy = board_policy(images=8, rows=10, columns=10, channels=32, blocks=2)
    sizes = [9 * 9 * 32 + 32, *[9 * 32 * 32 + 32, 9 * 32 * 32 + 32, 32 * 32 + 32] * 2, 32 + 1]
    assert sum(p.numel() for p in policy.parameters()) == sum(sizes)


def test_statistics_of_numbers_fix_the_size() -> None:
    small = board_policy(rows=5, columns=5, normalise_observations=True)
    with pytest.raises(RuntimeError, match="size mismatch"):
        board_policy(rows=6, columns=5, normalise_observations=True).load_state_dict(
            small.state_dict()
        )


def moved(images: torch.Tensor, down: int, right: int) -> torch.Tensor:
    return torch.roll(images, (down, right), dims=(-2, -1))


@pytest.mark.parametrize(("down", "right"), [(1, 0), (0, 1), (2, 3), (-1, -2)])
def test_moving_what_is_seen_moves_the_scores(down: int, right: int) -> None:
    """Away from the border, of a network that looks at neighbours only."""
    policy = board_policy(rows=11, columns=12, blocks=0, spread=0.3)
    torch.manual_seed(2)
    images = torch.zeros(5, 3, 11, 12)
    images[..., 4:7, 4:7] = torch.rand(5, 3, 3, 3)
    found, wanted = scores(policy, moved(images, down, right)), scores(policy, images)
    inside = (slice(None), slice(3, 8), slice(3, 8))
    there = (slice(None), slice(3 + down, 8 + down), slice(3 + right, 8 + right))
    torch.testing.assert_close(found[there], wanted[inside], atol=1e-5, rtol=1e-5)
    assert float((found - wanted).abs().max()) > 0.1, "it is seen that something moved"


def test_the_border_is_seen() -> None:
    blank = scores(board_policy(rows=7, columns=7, blocks=0, spread=0.3), torch.zeros(3, 7, 7))
    inside = blank[1:-1, 1:-1]
    torch.testing.assert_close(inside, inside[0, 0].expand_as(inside), atol=1e-6, rtol=1e-5)
    for edge in (blank[0], blank[-1], blank[:, 0], blank[:, -1]):
        assert float((edge - inside[0, 0]).abs().min()) > 1e-3


@pytest.mark.parametrize(("blocks", "far"), [(0, False), (1, True)])
def test_blocks_let_distant_parts_know_each_other(blocks: int, far: bool) -> None:
    policy = board_policy(rows=12, columns=12, blocks=blocks, spread=0.3)
    images = torch.zeros(3, 12, 12)
    before = scores(policy, images)
    images[:, 0, 0] = 1.0
    change = (scores(policy, images) - before).abs()
    assert float(change[0, 0]) > 1e-2
    assert bool((change[7:, 7:] > 1e-6).all()) is far
    assert bool((change[7:, 7:] > 0.0).any()) is far


def test_cells_are_scored_where_they_are() -> None:
    """A policy made to shoot beside the one hit shoots there, row by row as actions count."""
    policy = board_policy(images=1, rows=4, columns=6, blocks=0, channels=1)
    first: Any = policy.network[1]
    last: Any = policy.network[3]
    with torch.no_grad():
        first.weight.zero_()
        first.weight[0, 0, 1, 0] = 1.0  # sees what is left of a cell
        last.weight.fill_(1.0)
    observations = np.zeros((2, 24), np.float32)
    observations[0, 1 * 6 + 2] = observations[1, 3 * 6 + 4] = 1.0
    assert policy.act(observations, None, None).tolist() == [1 * 6 + 3, 3 * 6 + 5]


def test_earlier_frames_are_images_more() -> None:
    policy = board_policy(frame_history=2, spread=0.2)
    assert policy.board_shape == (6, 5, 7)
    observations = torch.rand(3, 2 * 105)
    with torch.no_grad():
        assert policy(observations).shape == (3, 35)
        swapped = policy(observations.roll(105, dims=-1))
        assert not torch.allclose(swapped, policy(observations))


# Masks


@pytest.mark.parametrize("sharpness", [1.0, 1e5])
def test_no_sampled_action_is_illegal(sharpness: float) -> None:
    """Of 100,000, also where few cells are left, and where all but one have no chance."""
    policy = board_policy(images=1, rows=5, columns=5, channels=4, spread=0.3)
    last: Any = policy.network[-2]
    with torch.no_grad():
        last.weight.mul_(sharpness)
    rng = np.random.default_rng(0)
    count = 50_000
    observations = rng.integers(-1, 2, (count, 25)).astype(np.float32)
    legal = rng.random((count, 25)) < rng.random((count, 1))
    legal[np.arange(count), rng.integers(0, 25, count)] = True
    noise = rng.random((count, 1), np.float32)
    noise[:100], noise[100:200] = 0.0, np.nextafter(np.float32(1.0), np.float32(0.0))
    for draws in (noise, None):
        actions = policy.act(observations, legal, draws)
        assert legal[np.arange(count), actions].all()
    assert set(actions.tolist()) == set(range(25))
    assert (legal.sum(axis=1) == 1).sum() > 100


def test_samples_follow_the_probabilities_of_legal_cells() -> None:
    policy = board_policy(images=1, rows=2, columns=3, channels=4, spread=1.0)
    observation = np.array([[1.0, 0.0, -1.0, 0.0, 0.0, 1.0]], np.float32)
    legal = np.array([[False, True, False, True, True, False]])
    count = 40_000
    noise = np.random.default_rng(0).random((count, 1), np.float32)
    actions = policy.act(observation.repeat(count, 0), legal.repeat(count, 0), noise)
    with torch.no_grad():
        logits = policy(torch.from_numpy(observation))[0].double().numpy()
    weights = np.where(legal[0], np.exp(logits - logits.max()), 0.0)
    shares = weights / weights.sum()
    found = np.bincount(actions, minlength=6) / count
    assert (abs(found - shares) <= 4 * np.sqrt(shares * (1 - shares) / count)).all()
    assert np.ptp(shares[legal[0]]) > 0.05


@pytest.mark.parametrize(
    "kwargs",
    [MICROGRPO, {"board_size": (4, 6), "fleet": (3, 2), "observation": "planes_density"}],
)
def test_the_first_ratio_is_one_under_masks(kwargs: dict[str, Any]) -> None:
    """microGRPO's is not: it forgets the mask in one of the two probabilities."""
    model = GRPO(
        "board", "Battleship-v0", env_kwargs=kwargs, learning_rate=0.02, num_groups=3,
        group_size=4, channels=6, blocks=1,
    )  # fmt: skip
    model.learn(400)  # the policy has moved
    rollout, estimate = model._collect()
    advantages = estimate.advantages
    advantages[rollout.alive] = 1.0  # nobody is left out
    batch = training_batch(rollout, advantages, model.config)
    assert len(batch) == rollout.num_steps
    masks = batch.action_masks
    assert masks is not None
    assert not bool(masks.all())
    with torch.no_grad():
        outputs = model.policy(batch.observations)
        now = model.policy.distribution(outputs, masks)
        ratio = (now.log_prob(batch.actions) - batch.old_log_probs).exp()
        torch.testing.assert_close(ratio, torch.ones_like(ratio), atol=2e-6, rtol=0.0)
        forgotten = model.policy.distribution(outputs).log_prob(batch.actions)
    assert float((forgotten - batch.old_log_probs).exp().mean()) < 0.9


# Symmetries


@pytest.mark.parametrize(("rows", "columns", "count"), [(3, 3, 8), (2, 4, 4), (1, 3, 4)])
def test_symmetries_move_observations_and_cells_alike(rows: int, columns: int, count: int) -> None:
    symmetries = board_symmetries((2, rows, columns))
    cells = torch.arange(rows * columns)
    assert len(symmetries) == count
    assert torch.equal(symmetries[0].cells, cells)
    if rows > 1:
        assert len({tuple(s.cells.tolist()) for s in symmetries}) == count
    for symmetry in symmetries:
        assert torch.equal(symmetry.cells[symmetry.moved], cells)
        for cell in cells:
            seen = torch.zeros(2, rows * columns)
            seen[1, cell] = 1.0
            turned_image = seen.reshape(-1)[symmetry.observations].reshape(2, -1)
            assert turned_image.nonzero().tolist() == [[1, int(symmetry.moved[cell])]]
    # Neighbours stay neighbours.
    row, column = cells // columns, cells % columns
    steps = (row[:, None] - row).abs() + (column[:, None] - column).abs()
    for symmetry in symmetries:
        assert torch.equal(steps[symmetry.moved][:, symmetry.moved], steps)


def test_a_turned_batch_is_one_from_a_turned_board() -> None:
    model = GRPO("board", "Battleship-v0", env_kwargs=MICROGRPO, **SMALL)
    rollout, estimate = model._collect()
    batch = training_batch(rollout, estimate.advantages, model.config)
    hits = batch.observations == 1.0
    for symmetry in model.policy.symmetries:
        other = transformed(batch, symmetry)
        assert other.action_masks is not None
        assert bool(other.action_masks.gather(-1, other.actions).all())
        assert torch.equal(other.action_masks, other.observations == 0.0)
        assert torch.equal((other.observations == 1.0).sum(dim=-1), hits.sum(dim=-1))
        before = model.policy.distribution(batch.old_outputs, batch.action_masks)
        after = model.policy.distribution(other.old_outputs, other.action_masks)
        torch.testing.assert_close(
            after.log_prob(other.actions), before.log_prob(batch.actions), atol=1e-6, rtol=1e-5
        )
        torch.testing.assert_close(before.log_prob(batch.actions), batch.old_log_probs)


# Predicting


def test_predict_takes_one_board_or_many() -> None:
    model = GRPO("board", "Battleship-v0", env_kwargs=MICROGRPO, **SMALL)
    board = np.zeros((5, 5), np.float32)
    action, _ = model.predict(board, action_masks=np.eye(25, dtype=np.int8)[17])
    assert np.shape(action) == ()
    assert action == 17
    actions, _ = model.predict(np.stack([board] * 3), deterministic=True)
    assert actions.shape == (3,)
    with pytest.raises(ConfigError, match=r"observation must have shape \(5, 5\)"):
        model.predict(np.zeros((6, 6), np.float32))


def test_loaded_for_a_board_of_another_size_it_plays_and_learns_there(tmp_path: Path) -> None:
    model = GRPO("board", "Battleship-v0", env_kwargs=MICROGRPO, **SMALL)
    model.train_iteration()
    model.save(tmp_path / "model.grpo")
    larger = GRPO.load(tmp_path / "model.grpo", env_kwargs={**MICROGRPO, "board_size": (6, 7)})
    assert larger.weights_sha256() == model.weights_sha256()
    assert larger.evaluate(20).lengths.max() > 25
    larger.train_iteration()
    assert larger.iteration == 2
    with pytest.raises(CheckpointError, match="observation space"):  # more images
        GRPO.load(tmp_path / "model.grpo", env_kwargs={**MICROGRPO, "observation": "planes"})


@pytest.mark.parametrize(
    ("policy", "options"), [("mlp", {}), ("board", {"normalise_observations": True})]
)
def test_what_is_made_for_one_size_is_refused_on_another(
    tmp_path: Path, policy: Any, options: dict[str, Any]
) -> None:
    model = GRPO(policy, "Battleship-v0", env_kwargs=MICROGRPO, **{**SMALL, **options})
    model.save(tmp_path / "model.grpo")
    with pytest.raises(CheckpointError, match="observation space"):
        GRPO.load(tmp_path / "model.grpo", env_kwargs={**MICROGRPO, "board_size": 6})


@pytest.mark.slow
def test_a_million_sampled_shots_are_all_legal() -> None:
    settings = {**MICROGRPO, "mask_repeats": True}
    model = GRPO("board", "Battleship-v0", env_kwargs=settings, **SMALL)
    env = BattleshipVectorEnv(4_000, autoreset_mode="SameStep", **settings)
    action_function = model.action_function(deterministic=False)
    images, infos = env.reset(seed=0)
    state: Any = None
    for _ in range(250):
        masks = infos["action_mask"].astype(np.bool_)
        shots, state = action_function(
            images.reshape(4_000, -1), masks, state, np.zeros(4_000, np.bool_)
        )
        assert masks[np.arange(4_000), shots].all()
        images, _, _, _, infos = env.step(shots)
