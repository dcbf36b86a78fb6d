"""ONNX files compute what torch does: mask, normaliser and history inside."""

import json
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces

from exported_models import (
    FOUR,
    HALF_BOUNDED,
    HISTORY,
    IMAGE,
    MIXED,
    VECTOR,
    make_model,
    masks_for,
    observations,
)
from grpo_gym.policies.distributions import Categorical, Gaussian
from grpo_gym.rollouts.policy_inputs import features_of
from grpo_gym.settings import ConfigError
from grpo_gym.trainers.grpo import GRPO

pytest.importorskip("onnxscript")
onnxruntime = pytest.importorskip("onnxruntime")


class Residual(torch.nn.Module):
    """A user's own network."""

    def __init__(self, observation_space: gym.Space[Any], action_space: gym.Space[Any]) -> None:
        super().__init__()
        self.inner = torch.nn.Linear(12, 12)
        self.last = torch.nn.Linear(12, 4)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.last(rows + torch.nn.functional.gelu(self.inner(rows)))
        return found


class Branching(Residual):
    """A network whose steps depend on its values, which no graph can hold."""

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        if bool(rows.mean() > 0):
            return super().forward(rows)
        found: torch.Tensor = self.last(rows)
        return found


SERVERS = spaces.Box(-1.0, 1.0, (26,))
CASES: dict[str, Any] = {
    "linear": ("linear", VECTOR, spaces.Discrete(3, start=2), {}),
    "mlp, choices, history": ("mlp", VECTOR, spaces.MultiDiscrete([2, 5, 3]), {"frame_history": 3}),
    "mlp, half-bounded Box": ("mlp", VECTOR, HALF_BOUNDED, {"hidden_sizes": [8]}),
    "servers": ("servers", SERVERS, FOUR, {"normalise_observations": True}),
}
SLOW_CASES: dict[str, Any] = {
    "mlp, mixed parts, flags": ("mlp", MIXED, spaces.MultiBinary((2, 2)), {"activation": "silu"}),
    "mlp, large numbers": ("mlp", spaces.Box(0, 1e9, (2,), np.float64), FOUR, {}),
    "linear, float64 Box": ("linear", VECTOR, spaces.Box(-1, 1, (2, 2), np.float64), {}),
    "servers, rows, history": (
        "servers", spaces.Box(-1.0, 1.0, (4, 6)), FOUR, {"frame_history": 2},
    ),
    "board": ("board", spaces.Box(0.0, 1.0, (2, 6, 5)), spaces.Discrete(30), {}),
    "cnn": ("cnn", IMAGE, FOUR, {}),
    "cnn, frames": ("cnn", spaces.Box(0, 1, (9, 8, 2)), HALF_BOUNDED, {"frame_history": 2}),
    "combined": ("combined", spaces.Dict(camera=IMAGE, other=VECTOR), FOUR, {}),
    "gru": ("gru", HISTORY, FOUR, {}),
    "gru, history": ("gru", VECTOR, HALF_BOUNDED, {"frame_history": 4}),
    "temporal": ("temporal", spaces.Dict(now=VECTOR, past=HISTORY), FOUR, {"lstm_width": 16}),
    "own": (Residual, VECTOR, FOUR, {}),
}  # fmt: skip


def exported(model: GRPO, folder: Path) -> Any:
    model.export(folder / "policy.onnx")
    return onnxruntime.InferenceSession(folder / "policy.onnx")


def parts(batch: Any, name: str = "observation") -> dict[str, np.ndarray]:
    """The inputs of an observation by the names that docs/how_to/export.md gives them."""
    if isinstance(batch, dict):
        return {
            k: v for key, part in batch.items() for k, v in parts(part, f"{name}.{key}").items()
        }
    return {name: batch}


def described(model: GRPO, rows: np.ndarray, masks: np.ndarray | None) -> list[np.ndarray]:
    """What torch says of rows (B, H * W): log-probabilities, or mean and log deviation."""
    legal = None if masks is None else torch.from_numpy(masks)
    with torch.inference_mode():
        found = model.policy.finite_distribution(torch.from_numpy(rows), legal)
    if isinstance(found, Gaussian):
        return [found.mean.numpy(), found.log_std.numpy()]
    assert isinstance(found, Categorical)
    if found.log_probs.shape[1] == 1:
        return [found.log_probs[:, 0].numpy()]
    sizes = model.policy.head.sizes
    lines = [found.log_probs[:, i, : int(n)] for i, n in enumerate(sizes)]  # type: ignore[arg-type]
    return [torch.cat(lines, dim=1).numpy()]


def check(model: GRPO, session: Any, batch_sizes: tuple[int, ...] = (1, 7)) -> None:
    """Compare three steps of several episodes with torch."""
    space, history = model.observation_space, model.config.frame_history
    for count in batch_sizes:
        state, frames = None, None
        for step in range(3):
            batch = observations(space, count, seed=step)
            masks = masks_for(model.action_space, count, seed=step)
            start = np.arange(count) % 3 == step
            inputs = parts(batch) | ({} if masks is None else {"action_mask": masks})
            if history > 1:
                if frames is None:
                    shape = (count, history, model.policy.rows.num_features)
                    frames, start = np.zeros(shape, np.float32), np.ones(count, np.bool_)
                inputs |= {"frames": frames, "episode_start": start}
            action, *numbers = session.run(None, inputs)
            wanted, state = model.predict(batch, state, start, True, masks)
            rows = features_of(space, batch)[0] if history == 1 else state.reshape(count, -1)
            np.testing.assert_allclose(action, wanted, 1e-5, 1e-5)
            assert action.dtype == wanted.dtype
            if history > 1:
                frames = numbers.pop()
            for ours, theirs in zip(numbers, described(model, rows, masks), strict=True):
                np.testing.assert_allclose(ours, theirs, 1e-5, 1e-5)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_a_file_computes_what_torch_does(case: Any, tmp_path: Path) -> None:
    network, observed, acts, settings = case
    model = make_model(network, observed, acts, **settings)
    session = exported(model, tmp_path)
    check(model, session)
    card = json.loads(session.get_modelmeta().custom_metadata_map["grpo_gym_card"])
    assert card["policy"] == network
    assert card["weights_sha256"] == model.weights_sha256()
    if network == "servers":
        of_any_number(model, session)


@pytest.mark.slow
@pytest.mark.parametrize("case", SLOW_CASES.values(), ids=SLOW_CASES)
def test_a_file_of_any_network_computes_what_torch_does(case: Any, tmp_path: Path) -> None:
    network, observed, acts, settings = case
    model = make_model(network, observed, acts, **settings)
    check(model, exported(model, tmp_path))


def of_any_number(model: GRPO, session: Any) -> None:
    """`servers` takes any number of servers, and leaves out those that are absent."""
    for servers in (1, 9):
        rows = np.random.default_rng(servers).uniform(-1, 1, (3, servers * 6 + 2))
        rows = rows.astype(np.float32)
        rows[1, :6] = -1.0
        mask = np.ones((3, servers), np.bool_)
        _, log_probs = session.run(None, {"observation": rows, "action_mask": mask})
        np.testing.assert_allclose(log_probs, described(model, rows, mask)[0], 1e-5, 1e-5)


def test_a_network_that_cannot_be_translated_is_one_line(tmp_path: Path) -> None:
    model = make_model(Branching, VECTOR, FOUR)
    with pytest.raises(ConfigError, match="torch cannot translate the policy to ONNX: ") as caught:
        model.export(tmp_path / "policy.onnx")
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_computes_something_else_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_model("linear", VECTOR, FOUR)
    run = onnxruntime.InferenceSession.run

    def wrong(*arguments: Any) -> Any:
        action, log_probs = run(*arguments)
        return [action, log_probs + 1e-4]

    monkeypatch.setattr(onnxruntime.InferenceSession, "run", wrong)
    with pytest.raises(ConfigError, match="must compute what torch does, and its log_probs differ"):
        model.export(tmp_path / "policy.onnx")
    assert list(tmp_path.iterdir()) == []
