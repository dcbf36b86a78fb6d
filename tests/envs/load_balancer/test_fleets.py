"""Fleets in environments: which one an episode has, absent servers, masks, snapshots, pictures."""

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode

import grpo_gym  # noqa: F401, registers the environments
from grpo_gym.envs.load_balancer.baselines import make_baseline
from grpo_gym.envs.load_balancer.env import LoadBalancerEnv
from grpo_gym.envs.load_balancer.presets import make_config
from grpo_gym.envs.load_balancer.simulator import LoadBalancerSimulator
from grpo_gym.envs.load_balancer.vector_env import LoadBalancerVectorEnv
from grpo_gym.rollouts.batches import make_batch
from grpo_gym.settings import to_mapping

FLEETS: dict[str, Any] = {"preset": "fleets", "max_servers": 6, "episode_length": 25}
FEATURES = 9
"""Per server, with sizes and weights."""
EVERYTHING: dict[str, Any] = {
    **FLEETS,
    "num_balancers": "choice 1 3",
    "workers": "choice 1 2 3",
    "connection_limit": "uniform 2 5",
    "timeout_ms": "uniform 30 90",
    "retry": True,
    "error_rates": "uniform 0 0.2",
    "mean_time_to_failure_ms": "choice 50 100",
    "mean_time_to_recovery_ms": 50.0,
    "recovery_ramp_ms": "uniform 0 80",
}
TWICE = pytest.mark.parametrize("settings", [FLEETS, EVERYTHING], ids=["fleets", "everything"])


def vector(num_envs: int, **settings: Any) -> LoadBalancerVectorEnv:
    return LoadBalancerVectorEnv(num_envs, **settings)


def least(env: LoadBalancerVectorEnv) -> float:
    space = env.single_observation_space
    assert isinstance(space, gym.spaces.Box)
    return float(space.low.min())


def drawn(env: LoadBalancerVectorEnv, b: int) -> dict[str, Any]:
    return to_mapping(env.simulator.fleet(b))


@TWICE
def test_a_seed_has_one_fleet(settings: dict[str, Any]) -> None:
    env, single = vector(6, **settings), LoadBalancerEnv(**settings, infos="basic")
    env.reset(seed=[7, 8, 7, 9, 8, 7])
    for _ in range(3):  # episodes
        fleets = [drawn(env, b) for b in range(6)]
        assert fleets[0] == fleets[2] == fleets[5]
        assert fleets[1] == fleets[4]
        assert len({str(each) for each in fleets}) == 3
        env.reset()
    for seed in (7, 8, 9):
        single.reset(seed=seed)
        env.reset(seed=[seed] * 6)
        for _ in range(3):
            assert to_mapping(single.simulator.fleet(0)) == drawn(env, 0)
            row = env.simulator.episodes["trace_row"][0]
            assert single.simulator.constants[0].tobytes() == env.simulator.constants[row].tobytes()
            single.reset()
            env.reset()


def test_the_records_are_those_of_the_fleet() -> None:
    env = vector(4, **EVERYTHING)
    env.reset(seed=0)
    for b in range(4):
        fleet, row = env.simulator.fleet(b), env.simulator.episodes["trace_row"][b]
        own = LoadBalancerSimulator(fleet, 1)
        assert env.simulator.constants[row].tobytes() == own.constants[0].tobytes()
        assert env.simulator.parameters[row].tobytes() == own.parameters[0].tobytes()
        assert env.simulator.setting("utilisation")[b] == fleet.utilisation
        assert env.simulator.present[b].sum() == fleet.num_servers


@TWICE
def test_a_padded_fleet_is_the_same_fleet_with_rows_of_minus_one(settings: dict[str, Any]) -> None:
    padded = vector(1, **settings, autoreset_mode="Disabled")
    rng = np.random.default_rng(0)
    sizes = set()
    for seed in range(12):
        observation, _ = padded.reset(seed=seed)
        fleet = padded.simulator.fleet(0)
        servers = fleet.num_servers
        sizes.add(servers)
        own = {**to_mapping(fleet), "max_servers": None}
        plain = vector(1, **own, autoreset_mode="Disabled")
        expected, _ = plain.reset(seed=seed)
        absent = FEATURES * (6 - servers)
        for _ in range(25):
            assert plain.observation_space.shape == (1, FEATURES * servers + 1)
            rows = np.split(observation[0], [FEATURES * servers, FEATURES * 6])
            np.testing.assert_array_equal(np.append(rows[0], rows[2]), expected[0])
            np.testing.assert_array_equal(rows[1], np.full(absent, -1.0, np.float32))
            actions = rng.integers(0, servers, 1)
            observation, reward, *_ = padded.step(actions)
            expected, other, *_ = plain.step(actions)
            assert reward == other
    assert len(sizes) >= 3


def test_an_absent_server_refuses() -> None:
    env = LoadBalancerEnv("flaky", num_servers=2, max_servers=4, down_response_ms=3.0)
    observation, info = env.reset(seed=0)
    assert info["action_mask"].tolist() == [1, 1, 0, 0]
    later, reward, _, _, info = env.step(np.int64(3))
    assert reward == pytest.approx(-3.0 / 100.0 - 1.5)
    assert info["error"] is True
    assert info["response_time_ms"] == 3.0
    assert info["oracle_action"] < 2
    assert np.isneginf(info["estimated_rewards"][2:]).all()
    assert (later[16:32] == -1.0).all()
    assert env.observation_space.contains(observation)


def test_the_health_of_absent_servers_is_not_that_of_an_earlier_fleet() -> None:
    settings = {**EVERYTHING, "num_servers": "uniform 1 6", "mean_time_to_recovery_ms": 1e6}
    settings["mean_time_to_failure_ms"] = 1.0
    env = vector(3, **settings, infos="full")
    env.reset(seed=0)
    absences = 0
    for _ in range(30):
        infos = env.reset()[1]
        absent = infos["action_mask"] == 0
        absences += absent.any()
        assert not infos["degraded"][absent].any()
        assert np.isinf(env.simulator.faults["start_ms"][absent]).all()
        assert infos["degraded"].any()
    assert absences > 10


@pytest.mark.parametrize("infos", ["basic", "full"])
@pytest.mark.parametrize("mode", list(AutoresetMode))
def test_masks_come_with_every_step(infos: str, mode: AutoresetMode) -> None:
    env = vector(5, **FLEETS, infos=infos, autoreset_mode=mode)
    found = env.reset(seed=3)[1]
    for _ in range(60):
        mask = found["action_mask"]
        assert (mask.dtype, mask.shape) == (np.int8, (5, 6))
        for b in range(5):
            servers = env.simulator.fleet(b).num_servers
            assert mask[b].tolist() == [1] * servers + [0] * (6 - servers)
        np.testing.assert_array_equal(env.action_masks(), mask == 1)
        _, _, _, truncated, found = env.step(mask.argmax(axis=1))
        if mode is AutoresetMode.DISABLED and truncated.any():
            found = env.reset()[1]


def test_masks_of_a_single_environment() -> None:
    env = LoadBalancerEnv(**FLEETS)
    info = env.reset(seed=1)[1]
    for step in range(60):
        np.testing.assert_array_equal(env.action_masks(), info["action_mask"] == 1)
        _, _, _, truncated, info = env.step(0)
        if truncated:
            assert step % 25 == 24
            info = env.reset()[1]
    assert "action_mask" not in LoadBalancerEnv("flaky").reset(seed=0)[1]


def test_a_fleet_of_a_seed_is_the_same_in_all_episodes() -> None:
    env = vector(3, preset="fleets", fleet_seed=5, infos="full")
    _, infos = env.reset(seed=0)
    fleets = {str(drawn(env, b)) for b in range(3)}
    env.reset()
    assert {str(drawn(env, b)) for b in range(3)} == fleets
    assert len(fleets) == 1
    assert "action_mask" not in infos
    servers = env.config.num_servers
    assert env.observation_space.shape == (3, FEATURES * servers + 1)
    assert least(env) == 0.0
    assert len(env.simulator.constants) == 1
    others = [make_config("fleets", fleet_seed=seed) for seed in range(20)]
    assert others[5] == env.config
    assert len({(each.utilisation, each.service_rates) for each in others}) == 20


@TWICE
def test_check_env(settings: dict[str, Any]) -> None:
    env = gym.make("LoadBalancer-v0", **settings)
    check_env(env.unwrapped)


@TWICE
def test_snapshots_continue(settings: dict[str, Any]) -> None:
    env = vector(4, **settings, autoreset_mode="SameStep", infos="full")
    other = vector(4, **settings, autoreset_mode="SameStep", infos="full")
    env.reset(seed=0)
    other.reset(seed=100)
    rng = np.random.default_rng(0)
    for step in range(60):
        if step in (0, 13, 31):  # the last after a reset
            other.set_state(env.get_state())
            np.testing.assert_array_equal(env.observe(), other.observe())
            assert [drawn(env, b) for b in range(4)] == [drawn(other, b) for b in range(4)]
        actions = rng.integers(0, 6, 4)
        left, right = env.step(actions), other.step(actions)
        for found, expected in zip(right[:4], left[:4], strict=True):
            np.testing.assert_array_equal(found, expected)
        np.testing.assert_array_equal(right[4]["action_mask"], left[4]["action_mask"])


@TWICE
def test_branches_continue_alike(settings: dict[str, Any]) -> None:
    batch: Any = make_batch("LoadBalancer-v0", settings, 6)
    batch.reset([3, 3, 3, 4, 5, 6])
    rng = np.random.default_rng(0)
    everyone = np.ones(6, np.bool_)
    batch.step(rng.integers(0, 2, 6), everyone)
    batch.restore(batch.snapshot(np.array([0])), np.array([[4, 5]]))
    for _ in range(20):
        actions = rng.integers(0, 2, 6)
        actions[4:] = actions[0]
        step = batch.step(actions, everyone)
        for b in (4, 5):
            np.testing.assert_array_equal(step.observations[b], step.observations[0])
            np.testing.assert_array_equal(step.action_masks[b], step.action_masks[0])
            assert step.rewards[b] == step.rewards[0]


def test_maskable_ppo_never_asks_an_absent_server() -> None:
    pytest.importorskip("stable_baselines3")
    maskable = pytest.importorskip("sb3_contrib").MaskablePPO
    from grpo_gym.envs.sb3 import to_sb3

    env: Any = gym.make_vec("LoadBalancer-v0", num_envs=4, autoreset_mode="SameStep", **FLEETS)
    venv: Any = to_sb3(env)
    asked: list[bool] = []
    step_async = venv.step_async

    def watch(actions: np.ndarray) -> None:
        present = env.unwrapped.action_masks()
        asked.extend(present[np.arange(4), actions].tolist())
        step_async(actions)

    venv.step_async = watch
    maskable("MlpPolicy", venv, n_steps=64, batch_size=64, n_epochs=1, seed=0).learn(512)
    assert len(asked) >= 512
    assert all(asked)


def test_retries_rejections_and_time_outs_are_in_the_infos() -> None:
    plain = LoadBalancerEnv("flaky")
    plain.reset(seed=0)
    names = {"timed_out", "rejected", "retries", "action_mask"}
    assert not names & set(plain.step(0)[4])
    env = LoadBalancerEnv(**EVERYTHING)
    env.reset(seed=0)
    info = env.step(0)[4]
    assert names <= set(info)
    assert type(info["retries"]) is type(info["error"]) is int
    assert type(info["timed_out"]) is type(info["rejected"]) is bool
    # Also where the example that stands for the fleets has no limit and no time-out.
    laws = {"one_of": [None, 5], "weights": [1, 1e-9]}
    env = LoadBalancerEnv("flaky", connection_limit=laws, timeout_ms=laws)
    env.reset(seed=0)
    assert {"timed_out", "rejected"} <= set(env.step(0)[4])


def test_observations_stay_in_their_space_to_the_end() -> None:
    """The last ones of episodes with retries too, which end after the last arrival."""
    env = vector(20, **{**EVERYTHING, "num_servers": 3, "max_servers": None, "error_rates": 0.5},
                 autoreset_mode="Disabled", infos="full")  # fmt: skip
    assert least(env) == 0.0
    env.reset(seed=0)
    for _ in range(25):
        observation, _, _, truncated, infos = env.step(np.zeros(20, np.int64))
        assert observation in env.observation_space
        assert (infos["age_ms"] >= 0.0).all()
    assert truncated.all()
    later = env.simulator.episodes["now_ms"] > env.simulator.arrivals["arrival_ms"][:, -1]
    assert later.any()


def test_fault_slots_of_a_server_that_small_fleets_lack() -> None:
    schedule = tuple((5, "slow", t, t + 1) for t in range(0, 20, 2))
    env = vector(40, **{**FLEETS, "mean_time_to_failure_ms": None}, fault_schedule=schedule)
    env.reset(seed=0)
    six = env.simulator.present[:, 5]
    assert 0 < six.sum() < 40
    begun = np.isfinite(env.simulator.faults["start_ms"]).sum(axis=2)
    rows = env.simulator.episodes["trace_row"]
    np.testing.assert_array_equal(begun[rows][:, 5], 10 * six)
    assert begun[rows][:, :5].sum() == 0


def test_fault_slots_are_enough_for_every_fleet() -> None:
    env = vector(
        300,
        preset="fleets",
        num_servers="uniform 1 8",
        utilisation="uniform 0.05 0.9",
        size_mean="uniform 10 40",
        workers="uniform 1 3",
        arrival_process="choice poisson diurnal markov_modulated",
        mean_time_to_failure_ms="choice null 100 4000",
        mean_time_to_recovery_ms="uniform 50 100",
    )
    for _ in range(3):
        env.reset(seed=0)
        assert np.isinf(env.simulator.faults["start_ms"][:, :, -1]).all()


@pytest.mark.parametrize("baseline", ["least_connections", "c3"])
def test_the_number_of_balancers_may_be_drawn(baseline: str) -> None:
    """An episode that drew a number of balancers is one of that number, bit for bit."""
    servers = {"workers": (1, 2, 1, 3), "autoreset_mode": "Disabled"}
    mixed = vector(12, num_balancers="choice 1 4", **servers)
    fixed = {count: vector(12, num_balancers=count, **servers) for count in (1, 4)}
    players = {env: make_baseline(baseline, env) for env in (mixed, *fixed.values())}
    seen = {env: env.reset(seed=3)[0] for env in players}
    numbers = [mixed.simulator.fleet(b).num_balancers for b in range(12)]
    assert set(numbers) == {1, 4}
    states: dict[Any, Any] = dict.fromkeys(players)
    for _ in range(200):
        for b, count in enumerate(numbers):
            assert np.array_equal(seen[mixed][b], seen[fixed[count]][b])
        for env, player in players.items():
            actions, states[env] = player.predict(seen[env], states[env])
            seen[env] = env.step(actions)[0]
