"""GRPO learns Battleship: steps, masks, and branches on one board."""

import math
from typing import Any

import pytest
import torch

from grpo_gym import GRPO

SMALL: dict[str, Any] = {"num_groups": 2, "group_size": 4, "hidden_sizes": (8,)}


@pytest.mark.parametrize("policy", ["mlp", "board"])
@pytest.mark.parametrize("preset", ["default", "vine"])
def test_two_iterations(preset: str, policy: Any) -> None:
    branching = {"branch_every": 6, "branch_lookahead": 4} if preset == "vine" else {}
    model = GRPO(
        policy, "Battleship-v0", env_kwargs={"preset": "microgrpo-5x5", "reward": "hits"},
        preset=preset, channels=4, blocks=1, **SMALL, **branching,
    )  # fmt: skip
    digests = {model.weights_sha256()}
    for _ in range(2):
        stats = model.train_iteration()
        assert stats.update is not None
        values = [stats.update.loss, stats.update.kl, stats.update.gradient_norm]
        assert all(map(math.isfinite, values))
        assert stats.rollout["repeated"] == 0.0, "masks forbid known cells, in branches too"
        assert 9 <= stats.rollout["length_mean"] <= 25
        digests.add(model.weights_sha256())
    assert len(digests) == 3


def test_branches_go_on_from_one_moment_on_one_board() -> None:
    """Step t of a branch has t shots more than its start, which all members share."""
    model = GRPO(
        "mlp", "Battleship-v0", env_kwargs={"preset": "microgrpo-5x5"}, preset="vine",
        branch_every=4, drop_uniform_groups=False, **SMALL,
    )  # fmt: skip
    rollout, _ = model._collect()
    steps, groups, _ = rollout.alive.shape
    assert steps == 4
    assert groups > 2 * 4
    known = (rollout.observations != 0.0).sum(dim=-1)
    starts = rollout.observations[0]
    assert bool((starts == starts[:, :1]).all())
    assert set(known[0, :, 0].tolist()) >= {0, 4, 8, 12}
    for t in range(1, steps):
        alive = rollout.alive[t]
        assert torch.equal(known[t][alive], (known[0] + t)[alive])
    # Members never contradict each other about a cell that both have shot at.
    low = torch.where(rollout.alive[..., None], rollout.observations, 0.0).amin(dim=(0, 2))
    high = torch.where(rollout.alive[..., None], rollout.observations, 0.0).amax(dim=(0, 2))
    assert not bool(((low == -1.0) & (high == 1.0)).any())
    assert bool((low == -1.0).any())
    assert bool((high == 1.0).any())
    masks = rollout.action_masks
    assert masks is not None
    assert bool(masks.gather(-1, rollout.actions)[rollout.alive].all())
    assert torch.equal(masks[rollout.alive], (rollout.observations == 0.0)[rollout.alive])
