"""Policies by name, what fits, changes while running, and learning."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from grpo_gym import GRPO
from grpo_gym.deployment.routing import Endpoint, RoutingConfig
from grpo_gym.deployment.routing.learning import OnlineRanker
from grpo_gym.deployment.routing.policies import make_ranker
from grpo_gym.deployment.routing.rankers import NetworkRanker
from grpo_gym.envs.load_balancer.baselines import BASELINES
from grpo_gym.inference.numpy_policy import NumpyPolicy
from grpo_gym.settings import ConfigError
from grpo_gym.storage import CheckpointError
from grpo_gym.trainers.pretrained import pretrained, router_file
from routing_bench import Bench, Script, bench, endpoints

FAIR = [name for name, rule in BASELINES.items() if not rule.privileged]
DIFFERENT = [Endpoint("a", "http://a", weight=1.0), Endpoint("b", "http://b", weight=3.0)]


def checkpoint(path: Path, policy: str = "mlp", **settings: Any) -> str:
    """An untrained network's checkpoint."""
    env_kwargs = {"num_servers": 4, "observe_size": False, **settings.pop("env_kwargs", {})}
    GRPO(policy, "LoadBalancer-v0", env_kwargs=env_kwargs, **settings).save(path)
    return str(path)


def side_by_side(world: Bench, requests: int) -> list[str]:
    """Where requests went, of which eight are in flight at a time."""
    waiting = []
    picks = []
    for _ in range(requests):
        world.now_s += 0.004
        waiting.append(world.pick())
        picks.append(waiting[-1].endpoints[0])
        if len(waiting) == 8:
            assert world.core.finish(waiting.pop(0).token, ok=True)
    for pick in waiting:
        assert world.core.cancel(pick.token)
    return picks


@pytest.mark.parametrize("name", FAIR)
def test_every_baseline_routes(name: str) -> None:
    world = bench(name, endpoints=[*DIFFERENT, *endpoints(4)[2:]])
    assert set(side_by_side(world, 200)) == set("abcd")
    assert world.core.status().guard.violations_in_window == 0
    assert world.core.status().guard.decisions == 200


@pytest.mark.parametrize("name", FAIR)
def test_no_baseline_chooses_what_is_not_healthy(name: str) -> None:
    world = bench(name, endpoints=[*DIFFERENT, *endpoints(4)[2:]])
    world.core.set_health("b", False)
    assert set(side_by_side(world, 200)) == set("acd")
    world.core.set_health("b", True)
    assert set(side_by_side(world, 200)) == set("abcd")


@pytest.mark.parametrize("name", ["oracle", "least_work"])
def test_privileged_baselines_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="must observe only what a balancer can know"):
        bench(name)


def test_unknown_names_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"got 'least_conections'\. Did you mean 'least_connect"):
        bench("least_conections")


@pytest.mark.parametrize("sizes", [False, True])
@pytest.mark.parametrize("weights", [False, True])
def test_the_pretrained_router_of_what_is_observed(sizes: bool, weights: bool) -> None:
    known = DIFFERENT if weights else endpoints(2)
    ranker = make_ranker("pretrained:router", known, RoutingConfig(observe_sizes=sizes))
    assert (ranker.layout.sizes, ranker.layout.weights) == (sizes, weights)


def test_scores_are_those_of_the_trained_network() -> None:
    ranker = make_ranker("pretrained:router", endpoints(5), RoutingConfig())
    alone = NumpyPolicy.load(router_file({"observe_size": False, "observe_weights": False}))
    model = pretrained(
        env_kwargs={"num_servers": 5, "observe_size": False, "observe_weights": False}
    )
    generator = np.random.default_rng(0)
    for _ in range(50):
        observation = generator.random(30).astype(np.float32)
        allowed = generator.random(5) < 0.7
        allowed[0] = True
        # Absent servers have -1 in every feature.
        seen = np.where(allowed[:, None], observation.reshape(5, 6), -1.0).astype(np.float32)
        action, _ = model.predict(seen.reshape(-1), deterministic=True)
        scores = ranker.rank(observation, allowed)
        assert (scores == alone.scores(seen.reshape(-1))).all()
        assert int(np.where(allowed, scores, -np.inf).argmax()) == int(action)


def test_weights_that_begin_to_differ_are_observed(tmp_path: Path) -> None:
    world = bench("pretrained:router", service_ms=20.0)
    world.core.add(Endpoint("e", "http://e", weight=2.0))
    for _ in range(10):
        world.one()
    assert world.core.status().guard.violations_in_window == 0
    world.core.remove("e")
    for _ in range(10):
        world.one()
    assert world.core.status().guard.violations_in_window == 0


@pytest.mark.parametrize("policy", ["mlp", "linear", "servers"])
def test_a_checkpoint_routes(policy: str, tmp_path: Path) -> None:
    world = bench(checkpoint(tmp_path / "a.ckpt", policy), service_ms=20.0)
    world.core.set_health("c", False)
    assert "c" not in {world.one() for _ in range(50)}
    assert world.core.status().guard.violations_in_window == 0
    assert world.core.status().guard.decisions == 50


def test_an_exported_file_routes(tmp_path: Path) -> None:
    pytest.importorskip("safetensors")
    kwargs = {"num_servers": 3, "observe_size": False, "observe_weights": False}
    pretrained(env_kwargs=kwargs).export(tmp_path / "policy.safetensors")
    world = bench(str(tmp_path / "policy.safetensors"), service_ms=20.0)
    world.one()
    assert world.core.status().guard.violations_in_window == 0


def test_a_run_routes_with_its_best_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    checkpoint(tmp_path / "run" / "checkpoints" / "best.ckpt")
    assert isinstance(
        make_ranker(str(tmp_path / "run"), endpoints(4), RoutingConfig()), NetworkRanker
    )
    with pytest.raises(ConfigError, match="must be a run's folder with a checkpoint"):
        bench(str(tmp_path))


def test_histories_of_frames_route(tmp_path: Path) -> None:
    path = checkpoint(tmp_path / "a.ckpt", "mlp", frame_history=3)
    world = bench(path, service_ms=20.0)
    for _ in range(5):
        world.one()
    assert world.core.status().guard.violations_in_window == 0


def test_padded_networks_take_fewer_endpoints(tmp_path: Path) -> None:
    path = checkpoint(tmp_path / "a.ckpt", env_kwargs={"max_servers": 6})
    world = bench(path, count=3, service_ms=20.0)
    assert {world.one() for _ in range(30)} <= set("abc")
    assert world.core.status().guard.violations_in_window == 0
    with pytest.raises(ConfigError, match=r"endpoints must be at most 6 for .*a.ckpt, got 7"):
        world.core.set_endpoints(endpoints(7))
    assert len(world.core.status().endpoints) == 3


def test_a_misfit_says_what_differs(tmp_path: Path) -> None:
    path = checkpoint(tmp_path / "a.ckpt")
    with pytest.raises(ConfigError, match=r"endpoints must be exactly 4 for .*a.ckpt, got 3"):
        bench(path, count=3)
    sizes = checkpoint(tmp_path / "sizes.ckpt", env_kwargs={"observe_size": True})
    with pytest.raises(ConfigError, match="observe_sizes must be true for"):
        bench(sizes)
    bench(sizes, observe_sizes=True)
    decaying = checkpoint(tmp_path / "decaying.ckpt", env_kwargs={"preset": "tiny-grpo"})
    with pytest.raises(ConfigError, match='dynamics must be "queue" for real requests'):
        bench(decaying)
    other = tmp_path / "other.ckpt"
    GRPO("linear", "CartPole-v1").save(other)
    with pytest.raises(ConfigError, match="policy must be one of LoadBalancer-v0, got one of Cart"):
        bench(str(other))
    (tmp_path / "damaged.ckpt").write_bytes(b"x" * 100)
    with pytest.raises(CheckpointError):
        bench(str(tmp_path / "damaged.ckpt"))


def test_swapping_a_policy(tmp_path: Path) -> None:
    world = bench("least_connections", service_ms=20.0)
    before = [world.pick() for _ in range(3)]
    world.core.swap_policy("pretrained:router")
    assert world.core.status().policy == "pretrained:router"
    assert sum(each.in_flight for each in world.core.status().endpoints) == 3
    for wrong in ("no such policy", str(tmp_path)):
        with pytest.raises(ConfigError):
            world.core.swap_policy(wrong)
    (tmp_path / "bad.ckpt").write_bytes(b"bad")
    with pytest.raises(CheckpointError):
        world.core.swap_policy(str(tmp_path / "bad.ckpt"))
    three = checkpoint(tmp_path / "three.ckpt", env_kwargs={"num_servers": 3})
    with pytest.raises(ConfigError, match="endpoints must be exactly 3"):
        world.core.swap_policy(three)
    assert world.core.status().policy == "pretrained:router"
    for pick in before:
        assert world.core.finish(pick.token, ok=True)
    world.one()
    assert world.core.status().guard.violations_in_window == 0


def test_endpoints_that_stay_keep_what_is_known() -> None:
    world = bench(Script(1), service_ms=20.0)
    for _ in range(5):
        world.one(latency_ms=50.0)
    waiting = world.pick(), world.pick()
    before = world.core.status().endpoints[1]
    world.core.set_endpoints([Endpoint("z", "http://z"), *endpoints(2)])
    after = world.core.status().endpoints
    assert [each.name for each in after] == ["z", "a", "b"]
    assert after[2].latency_ms == before.latency_ms and after[2].in_flight == 2
    assert world.core.finish(waiting[0].token, ok=True)
    world.core.remove("b")
    assert world.core.finish(waiting[1].token, ok=False)
    assert [each.in_flight for each in world.core.status().endpoints] == [0, 0]
    with pytest.raises(ConfigError, match="there is no endpoint 'b'"):
        world.core.remove("b")
    with pytest.raises(ConfigError, match=r"there is no endpoint 'aa'\. Did you mean 'a'"):
        world.core.set_health("aa", False)


def test_equal_scores_take_turns() -> None:
    class Indifferent(Script):
        def rank(self, observation: np.ndarray, allowed: np.ndarray) -> np.ndarray:
            return np.zeros(len(allowed))

    world = bench(Indifferent())
    assert [world.one() for _ in range(8)] == list("abcdabcd")


def test_a_baseline_that_begins_while_one_is_unhealthy_takes_it_when_it_is_back() -> None:
    world = bench("least_connections", endpoints=[*DIFFERENT, *endpoints(4)[2:]])
    world.core.set_health("b", False)
    world.one()
    world.core.swap_policy("envoy_least_request")
    assert set(side_by_side(world, 200)) == set("acd")
    world.core.set_health("b", True)
    assert set(side_by_side(world, 200)) == set("abcd")


# Learning


def test_online_learns_from_the_end_of_what_it_chose_and_else_at_once() -> None:
    world = bench("online", service_ms=20.0)
    for _ in range(20):
        world.one()
    ranker = world.core._chooser.ranker
    assert isinstance(ranker, OnlineRanker)
    observation, allowed = np.linspace(0.0, 1.0, 24, dtype=np.float32), np.ones(4, np.bool_)
    before = ranker.weights.copy()
    chosen = int(ranker.rank(observation, allowed).argmax())
    memo = ranker.sent(chosen)
    assert memo is not None and (ranker.weights == before).all()
    ranker.learn(memo, ok=False, latency_ms=500.0)
    assert (ranker.weights != before).any()
    before = ranker.weights.copy()
    other = (int(ranker.rank(observation, allowed).argmax()) + 1) % 4
    assert ranker.sent(other) is None
    assert ranker.sent(other) is None  # once


def queueing(world: Any, slow: str, requests: int) -> float:
    """Requests of exponential times of 20 ms, and 200 at one endpoint; its share in the end."""
    generator = np.random.default_rng(0)
    free_s: dict[str, float] = {}
    waiting: list[tuple[float, int]] = []
    for _ in range(requests):
        arrival_s = world.now_s + generator.exponential(0.02 / 3.0 / 0.5)
        for left_s, token in sorted(waiting):
            if left_s <= arrival_s:
                world.now_s = left_s
                world.core.finish(token, ok=True)
        waiting = [each for each in waiting if each[0] > arrival_s]
        world.now_s = arrival_s
        pick = world.core.pick()
        name = pick.endpoints[0]
        service_s = generator.exponential(0.2 if name == slow else 0.02)
        free_s[name] = max(free_s.get(name, 0.0), arrival_s) + service_s
        waiting.append((free_s[name], pick.token))
    share: float = next(each.share for each in world.core.status().endpoints if each.name == slow)
    return share


@pytest.mark.parametrize("guard", [{}, {"mode": "shadow"}])
def test_online_learns_to_avoid_a_slow_endpoint(guard: dict[str, Any]) -> None:
    world = bench("online", guard=guard)
    share = queueing(world, "b", 3_000)
    ranker = world.core._chooser.ranker
    assert isinstance(ranker, OnlineRanker)
    assert 1.0 < np.linalg.norm(ranker.weights) <= 6.0 + 1e-9
    if not guard:
        # A twentieth is exploration's; half of an equal share is far more than it should get.
        assert share < 0.125
    assert world.core.status().guard.violations_in_window == 0


def test_online_goes_on_where_it_stopped(tmp_path: Path) -> None:
    world = bench("online", service_ms=20.0, state_path=tmp_path / "guard.json")
    queueing(world, "b", 300)
    ranker = world.core._chooser.ranker
    assert isinstance(ranker, OnlineRanker)
    weights = ranker.weights.copy()
    world.core.close()
    world.core.close()
    again = bench("online", service_ms=20.0, state_path=tmp_path / "guard.json")
    loaded = again.core._chooser.ranker
    assert isinstance(loaded, OnlineRanker)
    assert (loaded.weights == weights).all() and loaded.decisions == ranker.decisions > 250
    again.core.close()
    by_file = bench(f"online:{tmp_path / 'guard.json.online'}", service_ms=20.0)
    by_file.one()
    with pytest.raises(ConfigError, match="must have 7 weights, one for each feature"):
        bench(f"online:{tmp_path / 'guard.json.online'}", endpoints=DIFFERENT)


def test_what_online_has_learnt_is_saved_every_minute_and_a_full_disk_stops_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = bench("online", service_ms=20.0, state_path=tmp_path / "guard.json")
    world.one()
    file = tmp_path / "guard.json.online"
    assert not file.exists()
    world.now_s += 60.0
    world.one()
    saved = file.read_bytes()

    def full(*arguments: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("grpo_gym.trainers.online.policy.write_atomic", full)
    world.now_s += 60.0
    world.one()
    assert file.read_bytes() == saved
    with pytest.raises(CheckpointError, match="No space left"):
        world.core.save()


def test_online_with_few_and_with_too_many_endpoints() -> None:
    world = bench("online", count=2, service_ms=20.0)
    for _ in range(20):
        world.one()
    world.core.set_health("a", False)
    assert {world.one() for _ in range(5)} == {"b"}
    world.core.set_endpoints(endpoints(1))
    assert world.one() == "a"
    many = [Endpoint(f"e{n}", "http://e") for n in range(64)]
    with pytest.raises(ConfigError, match="endpoints must be at most 63 for the policy online"):
        world.core.set_endpoints(many)
    assert world.one() == "a"
    assert world.core.status().guard.violations_in_window == 0


def test_a_script_learns_from_the_ends_of_its_own_picks() -> None:
    script = Script(2)
    world = bench(script)
    world.one(latency_ms=30.0)
    world.one(ok=False, latency_ms=5.0)
    assert [(n, ok, round(latency_ms, 6)) for n, ok, latency_ms in script.learnt] == [
        (2, True, 30.0),
        (2, False, 5.0),
    ]


def test_no_torch_in_the_process() -> None:
    program = """
import sys
from grpo_gym.deployment.routing import Endpoint, RoutingCore, RoutingConfig, routing_guard
config = RoutingConfig(service_ms=20.0, guard=routing_guard(mode="full"))
for policy in ("pretrained:router", "online", "peak_ewma"):
    both = [Endpoint("a", "http://a"), Endpoint("b", "http://b")]
    with RoutingCore(both, policy, config) as core:
        assert core.finish(core.pick().token, ok=True)
        assert core.status().guard.violations_in_window == 0
assert "torch" not in sys.modules
"""
    done = subprocess.run(
        [sys.executable, "-c", program], check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
