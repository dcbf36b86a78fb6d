from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from grpo_gym import GRPO, OnlineGRPO
from grpo_gym.settings import ConfigError
from grpo_gym.storage import checkpoint
from grpo_gym.storage.checkpoint import CheckpointError
from grpo_gym.trainers import grpo
from grpo_gym.trainers.grpo import IterationStats
from grpo_gym.trainers.learning import estimate
from probe_envs import (
    BestAction,
    Context,
    Countdown,
    Cue,
    Luck,
    ManyChoices,
    Patience,
    Recall,
    Search,
    Target,
    Temptation,
)

SMALL: dict[str, Any] = {"num_groups": 2, "group_size": 4, "hidden_sizes": (8,)}


def make(env: Any = Recall, **config: Any) -> GRPO:
    return GRPO("mlp", env, **{**SMALL, **config})


def stop_after(iterations: int) -> Callable[[GRPO, IterationStats], bool]:
    return lambda _, stats: stats.iteration < iterations


# The same again


def test_the_same_seed_gives_the_same_weights_and_another_seed_others() -> None:
    first, again, other = (make(seed=seed).learn(300) for seed in (1, 1, 2))
    assert first.weights_sha256() == again.weights_sha256() != other.weights_sha256()
    # Nor does it depend on, or touch, anybody else's random numbers.
    torch.manual_seed(99)
    before = torch.get_rng_state()
    assert make(seed=1).learn(300).weights_sha256() == first.weights_sha256()
    assert torch.equal(torch.get_rng_state(), before)


def test_minibatches_differ_between_iterations(monkeypatch: pytest.MonkeyPatch) -> None:
    seeds: list[int] = []
    real = grpo.update_policy

    def spy(*arguments: Any) -> Any:
        seeds.append(arguments[5].initial_seed())
        return real(*arguments)

    monkeypatch.setattr(grpo, "update_policy", spy)
    make().learn(120)
    assert len(set(seeds)) == 3


def test_the_first_weights_depend_on_the_seed_only() -> None:
    first = make(seed=3).weights_sha256()
    assert make(seed=3, preset="loop", epochs=9).weights_sha256() == first
    assert make(seed=4).weights_sha256() != first


RESUMED: dict[str, tuple[Any, dict[str, Any]]] = {
    "default": (Recall, {}),
    "grpo, KL from the first policy": (Recall, {"preset": "grpo", "kl_coefficient": 0.1}),
    "KL from the collecting policy": (
        Context,
        {"kl_coefficient": 0.1, "kl_reference": "collection", "entropy_coefficient": 0.01},
    ),
    "loop": (Countdown, {"preset": "loop"}),
    "Box actions, cosine": (
        Target,
        {"learning_rate_schedule": "cosine", "weight_decay": 0.1, "target_kl": 0.02},
    ),
    "masks, dapo": (Search, {"preset": "dapo"}),
    "unrelated": (ManyChoices, {"preset": "magistral", "grouping": "unrelated"}),
    "learned baseline": (Recall, {"learned_baseline": True, "baseline": "none"}),
    "KL from a moving average": (
        Context,
        {"kl_coefficient": 0.5, "kl_reference": "moving_average", "kl_estimator": "k3_plus"},
    ),
    "KL from a refreshed policy": (
        Context,
        {"kl_coefficient": 0.5, "kl_reference": "refreshed", "reference_every": 3},
    ),
    "branching": (Recall, {"preset": "vine", "branch_every": 2, "branch_lookahead": 1}),
    "branching, masks, frames": (
        Search,
        {"preset": "vine", "branch_every": 1, "branch_lookahead": 2, "frame_history": 3},
    ),
    "refill": (Recall, {"preset": "dapo", "group_size": 2}),
    "trust region, learned baseline": (
        Recall,
        {"preset": "trust_region", "learned_baseline": True},
    ),
    "frames": (Cue, {"frame_history": 2}),
    "bins and anchors": (Recall, {"baseline": "state_bin", "anchor_weight": 0.5}),
    "ratios of sequences": (Countdown, {"preset": "gspo", "learning_rate": 0.03}),
    "CartPole-v1": ("CartPole-v1", {"max_episode_steps": 50}),
    "CartPole-v1, branching": (
        "CartPole-v1",
        {"preset": "vine", "branch_every": 15, "branch_lookahead": 20, "max_episode_steps": 50},
    ),
    "LoadBalancer-v0": ("LoadBalancer-v0", {"env_kwargs": {"episode_length": 40}}),
}


@pytest.mark.parametrize("case", RESUMED)
def test_resuming_gives_the_weights_of_the_uninterrupted_run(case: str, tmp_path: Path) -> None:
    env, config = RESUMED[case]
    steps = 2_000 if isinstance(env, str) else 400 if config.get("preset") == "vine" else 150
    steps = 50 if env in (Context, Target) else steps  # whose episodes are one step
    whole = make(env, **config).learn(steps)
    assert whole.iteration >= 4
    half = make(env, **config).learn(steps, callback=stop_after(2))
    assert half.iteration == 2
    half.save(tmp_path / "half.grpo")
    make(env, **config, seed=9).learn(steps)  # another run in between changes nothing
    loaded = GRPO.load(tmp_path / "half.grpo", None if isinstance(env, str) else env)
    assert loaded.weights_sha256() == half.weights_sha256()
    loaded.resume()
    assert (loaded.iteration, loaded.num_steps) == (whole.iteration, whole.num_steps)
    assert loaded.weights_sha256() == whole.weights_sha256() != half.weights_sha256()
    state, wanted = loaded.optimizer.state_dict(), whole.optimizer.state_dict()
    assert checkpoint.weights_sha256(
        {f"{i}{k}": v for i, s in state["state"].items() for k, v in s.items()}
    ) == checkpoint.weights_sha256(
        {f"{i}{k}": v for i, s in wanted["state"].items() for k, v in s.items()}
    )


# Save and load


def test_a_loaded_model_is_the_saved_one(tmp_path: Path) -> None:
    model = make("CartPole-v1", preset="loop", activation="relu").learn(500)
    model.notes["eval_return"] = 12.5
    digest = model.save(tmp_path / "model.grpo")
    loaded = GRPO.load(tmp_path / "model.grpo")
    assert loaded.weights_sha256() == model.weights_sha256() == digest
    assert (loaded.config, loaded.notes, loaded.schedule, loaded.policy_source) == (
        model.config,
        {"eval_return": 12.5},
        model.schedule,
        "mlp",
    )
    observations = np.random.default_rng(0).standard_normal((20, 4)).astype(np.float32)
    predictions = [m.predict(observations, deterministic=True)[0] for m in (model, loaded)]
    np.testing.assert_array_equal(*predictions)
    np.testing.assert_array_equal(loaded.evaluate(5).returns, model.evaluate(5).returns)


def test_environment_arguments_are_saved_and_can_be_replaced(tmp_path: Path) -> None:
    kwargs = {"preset": "park", "num_servers": np.int64(3), "episode_length": 20}
    model = make("LoadBalancer-v0", env_kwargs=kwargs)
    model.save(tmp_path / "m.grpo")
    loaded = GRPO.load(tmp_path / "m.grpo")
    assert loaded.env_kwargs == {"preset": "park", "num_servers": 3, "episode_length": 20}
    np.testing.assert_array_equal(loaded.evaluate(3).lengths, [20] * 3)
    for spelling in ("LoadBalancer-v0", "grpo_gym:LoadBalancer-v0"):
        assert GRPO.load(tmp_path / "m.grpo", spelling).env_kwargs == kwargs
    other = GRPO.load(tmp_path / "m.grpo", env_kwargs={"episode_length": 30})
    assert other.env_kwargs == {**kwargs, "episode_length": 30}
    np.testing.assert_array_equal(other.evaluate(3).lengths, [30] * 3)
    another: dict[str, Any] = {"preset": "heavy-tails", "num_servers": 3}
    assert GRPO.load(tmp_path / "m.grpo", env_kwargs=another).env_kwargs == another


def test_the_reference_is_saved_not_made_again(tmp_path: Path) -> None:
    model = make(BestAction, preset="grpo")
    assert model.reference is not None
    with torch.no_grad():
        for parameter in model.reference.parameters():
            parameter.add_(1.0)
    model.save(tmp_path / "m.grpo")
    loaded = GRPO.load(tmp_path / "m.grpo", BestAction).reference
    assert loaded is not None
    assert checkpoint.weights_sha256(loaded.state_dict()) == checkpoint.weights_sha256(
        model.reference.state_dict()
    )


def test_what_cannot_be_loaded_says_why(tmp_path: Path) -> None:
    make(Recall).save(tmp_path / "probe.grpo")
    make("CartPole-v1").save(tmp_path / "cartpole.grpo")
    (tmp_path / "text").write_text("hello")
    checkpoint.save(tmp_path / "other.grpo", {"a": 1}, kind="something else")
    cases: list[tuple[str, dict[str, Any], str]] = [
        ("probe.grpo", {}, "trained in an environment without an id: pass it as env="),
        ("probe.grpo", {"env": BestAction}, "trained with observation space MultiBinary"),
        ("cartpole.grpo", {"env": "Acrobot-v1"}, "trained with observation space Box"),
        ("cartpole.grpo", {"env": "NoSuchEnv-v0"}, "cannot be used here: env must be a registered"),
        ("text", {}, "not a grpo-gym checkpoint"),
        ("other.grpo", {}, "kind must be 'grpo', got 'something else'"),
        ("missing.grpo", {}, "there is no such file"),
    ]
    for name, arguments, message in cases:
        with pytest.raises(CheckpointError, match=message) as caught:
            GRPO.load(tmp_path / name, **arguments)
        assert name in str(caught.value)
    with pytest.raises(CheckpointError, match="trained with action space Discrete"):
        make(BestAction).save(tmp_path / "best.grpo")
        GRPO.load(tmp_path / "best.grpo", Target)


# Learn


def test_callbacks_are_all_called_and_any_may_stop() -> None:
    calls: list[tuple[str, int]] = []

    def never(model: GRPO, stats: IterationStats) -> None:
        calls.append(("never", stats.num_steps))

    def at_two(model: GRPO, stats: IterationStats) -> bool:
        calls.append(("at two", stats.iteration))
        return stats.iteration < 2

    model = make().learn(1_000, callback=(at_two, never))
    assert calls == [("at two", 1), ("never", 40), ("at two", 2), ("never", 80)]
    assert model.iteration == 2


def test_statistics_of_an_iteration() -> None:
    stats = make(Countdown, max_episode_steps=3).train_iteration()
    assert (stats.iteration, stats.num_steps, stats.rollout_steps) == (1,) + 2 * (
        stats.rollout_steps,
    )
    rollout = stats.rollout
    assert rollout["length_mean"] * 8 == pytest.approx(stats.rollout_steps)
    assert rollout["return_mean"] == pytest.approx(rollout["length_mean"])
    assert 0.0 < rollout["truncated_share"] < 1.0
    assert "time" in rollout
    assert stats.collect_seconds > 0.0
    assert stats.update_seconds > 0.0


def test_progress_can_be_shown(capsys: pytest.CaptureFixture[str]) -> None:
    make().learn(80, progress_bar=True)
    shown = capsys.readouterr()
    assert "80/80 steps" in shown.err
    make().learn(80)
    assert capsys.readouterr().err == ""


# Learning: each probe to its known best, and the wrong variant not


def solve(env: Any, steps: int, **config: Any) -> float:
    """Mean return of the most probable actions after training."""
    settings = {"num_groups": 4, "group_size": 8, "hidden_sizes": (16,), "num_minibatches": 2}
    model = GRPO("mlp", env, **{**settings, "learning_rate": 0.02, **config}).learn(steps)
    return model.evaluate(64).mean_return


PROBES: dict[str, tuple[Any, int, float]] = {
    "one best action": (BestAction, 1_500, 1.0),
    "box observation": (Context, 3_000, 1.0),
    "discrete observation": (lambda: Context("discrete"), 3_000, 1.0),
    "dict observation": (lambda: Context("dict"), 3_000, 1.0),
    "reward at the end": (Recall, 8_000, 5.0),
    "worth waiting": (Patience, 3_000, 2.0),
    "MultiDiscrete": (ManyChoices, 3_000, 3.0),
    "Box": (Target, 2_000, 0.0),
    "mask": (Search, 3_000, 1.0),
    "no mask": (Temptation, 1_500, 10.0),
}


@pytest.mark.parametrize("probe", PROBES)
def test_probes_are_solved(probe: str) -> None:
    env, steps, best = PROBES[probe]
    assert solve(env, steps) == pytest.approx(best, abs=0.01)


NEW_WAYS: dict[str, dict[str, Any]] = {
    "vine": {"preset": "vine", "branch_every": 2, "branch_lookahead": 5},
    "trust region": {"preset": "trust_region"},
    "learned baseline": {"learned_baseline": True, "value_learning_rate": 0.02},
    "nothing but a learned baseline": {
        "learned_baseline": True,
        "value_learning_rate": 0.02,
        "baseline": "none",
    },
}


@pytest.mark.parametrize(
    ("way", "probe"),
    [
        *[(way, probe) for way in NEW_WAYS for probe in ("reward at the end", "mask")],
        ("trust region", "Box"),
        ("trust region", "MultiDiscrete"),
        ("learned baseline", "box observation"),
    ],
)
def test_other_ways_solve_probes(way: str, probe: str) -> None:
    env, steps, best = PROBES[probe]
    factor = 2 if way == "vine" else 1  # looking ahead takes steps too
    assert solve(env, factor * steps, **NEW_WAYS[way]) == pytest.approx(best, abs=0.05)


@pytest.mark.parametrize("preset", ["grpo", "dr_grpo", "loop", "magistral", "dapo"])
@pytest.mark.parametrize("probe", ["dict observation", "reward at the end", "mask"])
def test_every_variant_solves_probes(preset: str, probe: str) -> None:
    env, steps, best = PROBES[probe]
    assert solve(env, steps, preset=preset) == best


def test_the_wrong_sign_finds_the_worst_action(monkeypatch: pytest.MonkeyPatch) -> None:
    right = estimate.group_advantages
    monkeypatch.setattr(estimate, "group_advantages", lambda *a, **k: -right(*a, **k))
    assert solve(BestAction, 1_500, baseline="time_step") == 0.0


def test_what_is_not_observed_cannot_be_learned() -> None:
    assert solve(lambda: Context("hidden"), 3_000) < 0.5


def test_the_discount_decides_whether_waiting_is_worth_it() -> None:
    assert solve(Patience, 3_000, discount=0.5) == 1.0


def probability_of_the_better_action(grouping: Any, seed: int) -> float:
    model = GRPO(
        "mlp", Luck, num_groups=4, group_size=8, learning_rate=0.02, grouping=grouping, seed=seed
    ).learn(1_000)
    with torch.no_grad():
        distribution: Any = model.policy.distribution(model.policy(torch.zeros(1, 1)))
    return float(distribution.log_probs.exp()[0, 0, 1])


def test_sharing_the_outside_world_takes_its_luck_out_of_the_comparison() -> None:
    shared = [probability_of_the_better_action("shared", seed) for seed in range(4)]
    unrelated = [probability_of_the_better_action("unrelated", seed) for seed in range(4)]
    assert min(shared) > 0.95
    assert np.mean(unrelated) < 0.75


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_cartpole_is_solved(seed: int) -> None:
    model = GRPO(
        "mlp",
        "CartPole-v1",
        num_groups=4,
        group_size=8,
        learning_rate=3e-3,
        epochs=4,
        seed=seed,
    ).learn(150_000)
    result = model.evaluate(100)
    assert result.returns.min() == result.returns.max() == 500.0


def test_probabilities_are_of_one_observation() -> None:
    model = GRPO("linear", BestAction)
    observation = model.observation_space.sample()
    assert float(model.probabilities(observation).sum()) == pytest.approx(1.0)
    with pytest.raises(ConfigError, match="observation must be a single one, got a batch"):
        model.probabilities(np.stack([observation, observation]))


def test_a_repr_says_what_it_is() -> None:
    model = GRPO("linear", "LoadBalancer-v0", env_kwargs={"preset": "mm4"}, num_groups=2)
    described = "<GRPO with linear in LoadBalancer-v0, preset='mm4': "
    assert repr(model).startswith(described)
    assert "2 groups of 16, 0 steps trained" in repr(model)
    own = GRPO("mlp", Luck)
    assert repr(own).startswith("<GRPO with mlp in Luck: ")
    assert "mean return" in repr(own.evaluate(3)) and "array" not in repr(own.evaluate(3))
    online = OnlineGRPO(env_kwargs={"preset": "flaky"})
    assert repr(online).startswith("<OnlineGRPO in LoadBalancer-v0, preset='flaky': ")
