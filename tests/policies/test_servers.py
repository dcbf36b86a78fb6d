"""The policy that scores any number of servers in any order with the same weights."""

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces

from grpo_gym import GRPO
from grpo_gym.cli.train import main as train_main
from grpo_gym.policies.options import ServersOptions
from grpo_gym.policies.servers import ServersNormaliser, ServersPolicy
from grpo_gym.settings import ConfigError
from grpo_gym.storage.checkpoint import CheckpointError
from probe_envs import Extreme

SMALL: dict[str, Any] = {"num_groups": 2, "group_size": 4, "server_width": 16}
SHORT: dict[str, Any] = {"preset": "flaky", "episode_length": 40}
FEATURES, SHARED = 5, 2
VARIANTS: list[dict[str, Any]] = [
    {},
    {"frame_history": 3},
    {"normalise_observations": True},
    {"frame_history": 2, "normalise_observations": True},
]


def servers_policy(servers: int = 4, spread: float = 0.1, **options: Any) -> ServersPolicy:
    """With `spread`, all weights get noise, so that nothing is near zero any more."""
    torch.set_num_threads(1)  # as GRPO does
    torch.manual_seed(0)
    size = servers * FEATURES + SHARED
    named = {"shared_features": SHARED, "server_width": 16, **options}
    policy = ServersPolicy(
        spaces.Box(-1.0, 1.0, (size,), np.float32),
        spaces.Discrete(servers),
        ServersOptions(**named),
    )
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.add_(spread * torch.randn_like(parameter))
    if policy.normaliser is not None:
        draws = random_observations(50, servers, options.get("frame_history", 1))
        policy.normaliser.update(draws * torch.linspace(0.5, 3.0, draws.shape[1]))
    return policy


def random_observations(count: int, servers: int, frames: int = 1) -> torch.Tensor:
    return torch.rand(count, frames * (servers * FEATURES + SHARED))


def rearranged(observations: torch.Tensor, order: list[int], frames: int = 1) -> torch.Tensor:
    """The same observations with servers in this order; -1 stands for an absent server."""
    parts = []
    for frame in observations.chunk(frames, dim=-1):
        rows = frame[:, :-SHARED].unflatten(-1, (-1, FEATURES))
        padded = torch.cat([rows, torch.full_like(rows[:, :1], -1.0)], dim=1)
        parts += [padded[:, order].flatten(1), frame[:, -SHARED:]]
    return torch.cat(parts, dim=-1)


def scores(policy: ServersPolicy, observations: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = policy(observations)
    return found


def close(found: torch.Tensor, wanted: torch.Tensor) -> None:
    torch.testing.assert_close(found, wanted, atol=1e-6, rtol=1e-6)


# Spaces


BOX = spaces.Box(0.0, 1.0, (17,), np.float32)
REFUSED: list[tuple[gym.Space[Any], gym.Space[Any], int | None, str]] = [
    (BOX, spaces.MultiDiscrete([4]), None, "must be Discrete, one action per server.*use the pol"),
    (BOX, spaces.Box(-1.0, 1.0, (4,)), None, "action space must be Discrete"),
    (spaces.Discrete(17), spaces.Discrete(4), None, "must be a Box of rows of 4 servers"),
    (spaces.Dict({"a": BOX}), spaces.Discrete(4), None, "must be a Box of rows of 4 servers"),
    (spaces.Box(0.0, 1.0, (3, 4)), spaces.Discrete(4), None, "must be a Box of rows of 4 servers"),
    (BOX, spaces.Discrete(18), None, "shared_features must leave each of 18 servers the same"),
    (BOX, spaces.Discrete(4), 2, "number of features, at least one, got 2 of 17 features: count"),
    (BOX, spaces.Discrete(4), 17, "got 17 of 17 features"),
    (BOX, spaces.Discrete(4), 21, "got 21 of 17 features"),
]


@pytest.mark.parametrize(("observation", "action", "shared", "message"), REFUSED)
def test_other_spaces_are_refused(
    observation: gym.Space[Any], action: gym.Space[Any], shared: int | None, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        ServersPolicy(observation, action, ServersOptions(shared_features=shared))


@pytest.mark.parametrize(
    ("size", "servers", "shared", "layout"),
    [(17, 4, None, (4, 1)), (17, 4, 5, (3, 5)), (9, 1, None, (9, 0)), (9, 1, 1, (8, 1)),
     (12, 4, None, (3, 0)), (193, 24, None, (8, 1))],
)  # fmt: skip
def test_what_is_left_over_is_shared(
    size: int, servers: int, shared: int | None, layout: tuple[int, int]
) -> None:
    options = ServersOptions(shared_features=shared, server_width=4)
    policy = ServersPolicy(spaces.Box(0.0, 1.0, (size,)), spaces.Discrete(servers), options)
    assert (policy.layout.features, policy.layout.shared) == layout
    assert scores(policy, torch.rand(2, size)).shape == (2, servers)


def test_rows_alone_may_have_an_axis_of_their_own() -> None:
    found = []
    for shape in ((4, 5), (20,)):
        torch.manual_seed(3)
        box = spaces.Box(0.0, 1.0, shape, np.float32)
        policy = ServersPolicy(box, spaces.Discrete(4), ServersOptions(server_width=4))
        found.append(scores(policy, torch.linspace(0.0, 1.0, 60).reshape(3, 20)))
    assert torch.equal(*found)


@pytest.mark.parametrize("leading", [(), (1,), (0,), (6,), (4, 3), (2, 1, 3)])
@pytest.mark.parametrize("options", VARIANTS)
def test_scores_have_the_leading_axes_of_observations(
    leading: tuple[int, ...], options: dict[str, Any]
) -> None:
    policy = servers_policy(**options)
    observations = torch.rand(*leading, policy.observation_size)
    found = scores(policy, observations)
    assert found.shape == (*leading, 4)
    close(found.reshape(-1, 4), scores(policy, observations.reshape(-1, policy.observation_size)))


def test_it_starts_nearly_uniform() -> None:
    policy = servers_policy(9, spread=0.0, server_width=48)
    outputs = scores(policy, random_observations(200, 9))
    assert float((outputs.softmax(dim=-1) * 9 - 1.0).abs().max()) < 0.1
    assert float(outputs.std(dim=-1).min()) > 0.0, "but not constant: gradients reach all layers"


# Any order, any number


@pytest.mark.parametrize("servers", [1, 2, 5, 16])
@pytest.mark.parametrize("options", VARIANTS)
def test_permuted_servers_have_permuted_scores(servers: int, options: dict[str, Any]) -> None:
    policy = servers_policy(servers, **options)
    frames = options.get("frame_history", 1)
    observations = random_observations(20, servers, frames)
    order = np.random.default_rng(servers).permutation(servers).tolist()
    wanted = scores(policy, observations)
    close(scores(policy, rearranged(observations, order, frames)), wanted[:, order])
    if servers > 1:
        assert float(wanted.std(dim=1).median()) > 0.05, "servers differ"
        changed = observations.clone()
        changed[:, -FEATURES * (servers - 1) - SHARED : -SHARED] *= 0.5  # all but the first
        assert float((scores(policy, changed) - wanted)[:, 0].abs().max()) > 1e-3, "others matter"
    changed = observations.clone()
    changed[:, -1] += 0.5
    assert float((scores(policy, changed) - wanted).abs().max()) > 1e-3, "so do shared features"


@pytest.mark.parametrize("preset", ["default", "trust_region"])
def test_training_keeps_it_so(preset: str) -> None:
    model = GRPO(
        "servers", "LoadBalancer-v0", env_kwargs=SHORT, preset=preset, **SMALL
    ).learn(1_000)  # fmt: skip
    policy = servers_of(model)
    generator = torch.Generator().manual_seed(0)
    observations = torch.rand(30, 33, generator=generator)
    order = [2, 0, 3, 1]
    rows = observations[:, :32].unflatten(1, (4, 8))[:, order].flatten(1)
    found = scores(policy, torch.cat([rows, observations[:, 32:]], dim=1))
    close(found, scores(policy, observations)[:, order])


@pytest.mark.parametrize("options", VARIANTS)
@pytest.mark.parametrize("order", [[0, 1, 2, -1, -1], [-1, 2, -1, 0, 1, -1, -1], [1, -1, 0, 2]])
def test_absent_servers_change_nothing(order: list[int], options: dict[str, Any]) -> None:
    policy, frames = servers_policy(3, **options), options.get("frame_history", 1)
    padded = servers_policy(len(order), **options)
    padded.load_state_dict(policy.state_dict())
    observations = random_observations(20, 3, frames)
    found, wanted = scores(padded, rearranged(observations, order, frames)), scores(
        policy, observations
    )  # fmt: skip
    places = [order.index(server) for server in range(3)]
    close(found[:, places], wanted)
    # Fleets of different sizes in one batch, and rows that are cut from it.
    mixed = torch.cat([rearranged(observations, order, frames),
                       random_observations(5, len(order), frames)])  # fmt: skip
    close(scores(padded, mixed)[:20][:, places], wanted)


def test_without_a_mask_absent_servers_are_not_chosen_and_nothing_is_nan() -> None:
    policy = servers_policy(3)
    observations = random_observations(20, 3)
    padded = servers_policy(5)
    padded.load_state_dict(policy.state_dict())
    found = padded(rearranged(observations, [0, -1, 1, -1, 2]))
    distribution: Any = padded.distribution(found)
    wanted: Any = policy.distribution(scores(policy, observations))
    close(distribution.entropy(), wanted.entropy())
    uniform = padded.distribution(torch.where(found < -1e3, found, 0.0))
    reference = policy.distribution(torch.zeros(20, 3))
    close(distribution.kl(uniform), wanted.kl(reference))
    noise = torch.rand(20, 1, generator=torch.Generator().manual_seed(0))
    assert set(distribution.sample(noise).flatten().tolist()) <= {0, 2, 4}
    total = distribution.entropy().sum() + distribution.kl(uniform).sum()
    gradients = torch.autograd.grad(total, list(padded.parameters()))
    assert all(bool(gradient.isfinite().all()) for gradient in gradients)


def test_an_observation_without_servers_is_uniform() -> None:
    policy = servers_policy(4, normalise_observations=True)
    found = scores(policy, torch.full((2, 4 * FEATURES + SHARED), -1.0))
    assert torch.equal(found, found[:1, :1].expand(2, 4))
    assert bool(found.isfinite().all())


def test_the_number_of_servers_is_in_no_weight() -> None:
    for options in VARIANTS:
        shapes = [
            {name: tensor.shape for name, tensor in policy.state_dict().items()}
            for policy in (servers_policy(2, **options), servers_policy(31, **options))
        ]
        assert shapes[0] == shapes[1]


# Normalisation


def test_statistics_are_those_of_features_of_present_servers() -> None:
    policy = servers_policy(4, spread=0.0, normalise_observations=True, frame_history=2)
    policy.normaliser = normaliser = ServersNormaliser(policy.layout)
    rng = np.random.default_rng(0)
    scale = np.array([1.0, 2.0, 3.0, 4.0, 5.0])
    rows = rng.random((300, 2, 4, FEATURES)) * scale
    present = rng.random((300, 2, 4)) < 0.5
    present[:, :, 0] = True
    rows[~present] = -1.0
    shared = rng.random((300, 2, SHARED))
    flat = np.concatenate([rows.reshape(300, 2, -1), shared], axis=2).reshape(300, -1)
    for part in np.array_split(flat, 3):
        normaliser.update(torch.tensor(part, dtype=torch.float32))
    counted = rows[:, 1][present[:, 1]]
    np.testing.assert_allclose(normaliser.mean[:FEATURES], counted.mean(0), rtol=1e-5)
    np.testing.assert_allclose(1 / normaliser.scale[:FEATURES], counted.std(0), rtol=1e-5)
    found = policy.features(torch.tensor(flat, dtype=torch.float32)).numpy().reshape(300, 2, -1)
    normalised = found[:, :, :-SHARED].reshape(rows.shape)
    assert (normalised[~present] == -1.0).all()
    wanted = (rows - counted.mean(0)) / counted.std(0)
    np.testing.assert_allclose(normalised[present], wanted[present], atol=1e-4)


# Learning


def test_it_learns_where_the_number_of_servers_varies() -> None:
    options: dict[str, Any] = {"num_minibatches": 2, "epochs": 2, "entropy_coefficient": 0.05}
    model = GRPO("servers", Extreme, num_groups=32, group_size=8, seed=0, **options)
    assert model.evaluate(300, deterministic=True).mean_return < 0.6
    model.learn(15_000)
    assert model.evaluate(300, deterministic=True).mean_return > 0.95


# Files


def test_loaded_for_another_fleet_it_plays_and_learns_there(tmp_path: Path) -> None:
    path = tmp_path / "model.grpo"
    model = GRPO("servers", "LoadBalancer-v0", env_kwargs=SHORT, **SMALL)
    model.train_iteration()
    model.save(path)
    larger = GRPO.load(path, env_kwargs={"num_servers": 37})
    assert larger.env_kwargs == {**SHORT, "num_servers": 37}
    assert larger.action_space == spaces.Discrete(37)
    assert larger.weights_sha256() == model.weights_sha256()
    moments = [one.optimizer.state_dict()["state"][0]["exp_avg"] for one in (model, larger)]
    assert torch.equal(*moments)
    # The same policy acts in both: in any fleet it is one function.
    there = model.evaluate(5, env_kwargs={**SHORT, "num_servers": 37})
    assert larger.evaluate(5).returns.tolist() == there.returns.tolist()
    larger.learn(700)
    assert larger.iteration > 1
    assert larger.weights_sha256() != model.weights_sha256()
    larger.save(tmp_path / "larger.grpo")
    back = GRPO.load(tmp_path / "larger.grpo", env_kwargs={"num_servers": 3})
    assert back.weights_sha256() == larger.weights_sha256()
    assert back.learn(100).iteration > larger.iteration


def test_a_single_server_has_what_is_shared_in_its_row(tmp_path: Path) -> None:
    path = tmp_path / "model.grpo"
    model = GRPO("servers", "LoadBalancer-v0", env_kwargs=SHORT, **SMALL)
    model.save(path)
    one = GRPO.load(path, env_kwargs={"num_servers": 1})
    observation = torch.rand(3, 9)
    alone = scores(servers_of(one), observation)
    absent = torch.full((3, 24), -1.0)
    fleet = torch.cat([observation[:, :8], absent, observation[:, 8:]], dim=1)
    close(scores(servers_of(model), fleet)[:, :1], alone)
    one.train_iteration()


def servers_of(model: GRPO) -> ServersPolicy:
    assert isinstance(model.policy, ServersPolicy)
    return model.policy


def test_what_has_other_features_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.grpo"
    GRPO("servers", "LoadBalancer-v0", env_kwargs=SHORT, **SMALL).save(path)
    with pytest.raises(CheckpointError, match="observation space"):
        GRPO.load(path, env_kwargs={"observe_size": False})
    GRPO("mlp", "LoadBalancer-v0", env_kwargs=SHORT, num_groups=2, group_size=4).save(path)
    with pytest.raises(CheckpointError, match="observation space"):
        GRPO.load(path, env_kwargs={"num_servers": 5})


def test_statistics_and_all_move_to_another_fleet(tmp_path: Path) -> None:
    path = tmp_path / "model.grpo"
    settings = {**SMALL, "normalise_observations": True, "frame_history": 2}
    model = GRPO("servers", "LoadBalancer-v0", env_kwargs=SHORT, **settings)
    model.train_iteration()
    model.save(path)
    other = GRPO.load(path, env_kwargs={"num_servers": 6})
    assert other.weights_sha256() == model.weights_sha256()
    other.train_iteration()


def test_the_command_line_knows_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("train.yaml").write_text(
        "env: LoadBalancer-v0\nenv_kwargs: {episode_length: 20}\npolicy: servers\n"
        "policy_kwargs: {server_width: 8}\ngrpo: {num_groups: 2, group_size: 4}\n"
    )
    words = ["--total-steps", "320", "--final-episodes", "0", "--evaluations", "0", "--quiet"]
    assert train_main(["--config", "train.yaml", "--run-dir", "a", *words]) == 0
    assert train_main(
        ["--policy", "servers", "--env", "LoadBalancer-v0", "--env-kwargs", "episode_length=20",
         "--server-width", "8", "--num-groups", "2", "--group-size", "4", "--run-dir", "b", *words]
    ) == 0  # fmt: skip
    for folder in ("a", "b"):
        model = GRPO.load(f"{folder}/checkpoints/latest.ckpt", env_kwargs={"num_servers": 9})
        assert (model.policy_source, model.config.server_width) == ("servers", 8)
