"""Restores damaged snapshots of native environments, and plays those that are accepted to the end.

    python state_fuzz.py ENV_ID TRIALS

A process of its own, because what it looks for may kill the process, or keep it for ever. Each
trial is printed before it begins, so that the last line says what did it.
"""

import sys
from typing import Any

import numpy as np

from native_cases import CASES, NativeCase, some_actions

COUNT = 3
EXTREMES = (0, 1, -1, 2, 7, 127, 2**31 - 1, -(2**31), 2**62, -(2**63), 1e-300, 1e18, 1e300)
FLOATS = (*EXTREMES, np.nan, np.inf, -np.inf, 0.5, -0.0)
State = dict[str, np.ndarray]
_LINKED: dict[str, dict[str, Any]] = {
    "shared, retries": {
        "mean_time_to_failure_ms": 150.0, "episode_length": 21, "num_balancers": 3, "workers": 2,
        "retry": True, "error_rates": 0.3, "timeout_ms": 60.0, "utilisation": 1.3,
        "connection_limit": 6,
    },
    "fleets": {
        "episode_length": 17, "service_rates": "uniform 0.5 1.5", "num_servers": "uniform 2 4",
        "utilisation": "uniform 0.5 1.2", "retry": True, "error_rates": 0.2,
    },
    "workers, timeouts": {"workers": 3, "utilisation": 1.6, "timeout_ms": 50.0},
}  # fmt: skip
FUZZED = CASES | {
    f"LoadBalancer-v0 {name}": NativeCase("LoadBalancer-v0", {"episode_length": 19, **settings})
    for name, settings in _LINKED.items()
}
"""And more of the load balancer, whose requests are linked in more ways."""


def random_bytes(state: State, rng: np.random.Generator) -> None:
    """Every array, or one, of random bytes."""
    names = parts(state) if rng.random() < 0.5 else [str(rng.choice(parts(state)))]
    for name in names:
        as_bytes(state, name)[:] = rng.integers(0, 256, as_bytes(state, name).size)


def flipped_bits(state: State, rng: np.random.Generator) -> None:
    """From 1 to 8 bits, anywhere."""
    for _ in range(rng.integers(1, 9)):
        data = as_bytes(state, str(rng.choice(parts(state))))
        data[rng.integers(data.size)] ^= 1 << rng.integers(8)


def extreme_value(state: State, rng: np.random.Generator) -> None:
    """One number, or one field everywhere, at the edge of what its type holds."""
    field = some_field(state, rng)
    values = FLOATS if field.dtype.kind == "f" else EXTREMES
    with np.errstate(all="ignore"):
        value = np.asarray(values[rng.integers(len(values))]).astype(field.dtype)
    where = rng.random(field.shape) < (1.0 if rng.random() < 0.3 else 0.2)
    field[where] = value


def near_value(state: State, rng: np.random.Generator) -> None:
    """One number a little different, such as an index beyond its end."""
    field = some_field(state, rng)
    if field.dtype == np.bool_:
        return
    where = tuple(rng.integers(field.shape))
    field[where] += np.asarray(rng.integers(-3, 4)).astype(field.dtype)


def exchanged_fields(state: State, rng: np.random.Generator) -> None:
    """Two fields of equal type change their places."""
    left, right = some_field(state, rng), some_field(state, rng)
    if left.dtype == right.dtype and left.shape == right.shape:
        left[...], right[...] = right.copy(), left.copy()


def exchanged_members(state: State, rng: np.random.Generator) -> None:
    """One array comes from other members than the rest."""
    name = str(rng.choice(parts(state)))
    state[name] = state[name][rng.permutation(COUNT)]


def shuffled_rows(state: State, rng: np.random.Generator) -> None:
    """The order within one field of one member changes."""
    field = some_field(state, rng)
    if field.ndim > 1:
        row = field[rng.integers(COUNT)]
        row[...] = row[rng.permutation(len(row))]


DAMAGES = (
    random_bytes,
    flipped_bits,
    extreme_value,
    near_value,
    exchanged_fields,
    exchanged_members,
    shuffled_rows,
)


def parts(state: State) -> list[str]:
    return [name for name in state if name != "fingerprint" and state[name].size]


def as_bytes(state: State, name: str) -> np.ndarray:
    return state[name].reshape(-1).view(np.uint8)


def some_field(state: State, rng: np.random.Generator) -> np.ndarray:
    array = state[str(rng.choice(parts(state)))]
    names = array.dtype.names
    return array if names is None else array[str(rng.choice(names))]


def somewhere(case: NativeCase, rng: np.random.Generator) -> State:
    """A snapshot of environments in the middle of their episodes, on traces partly shared."""
    env = case.vector(COUNT, autoreset_mode="Disabled")
    env.reset(seed=rng.integers(0, 3, COUNT).tolist())
    alive = np.ones(COUNT, np.bool_)
    for _ in range(rng.integers(0, 15)):
        _, _, terminated, truncated, _ = env.step_alive(some_actions(env, rng), alive)
        alive &= ~(terminated | truncated)
    state: State = env.get_state()
    return {name: np.ascontiguousarray(array) for name, array in state.items()}


def play_to_the_end(env: Any, rng: np.random.Generator) -> None:
    terminated, truncated = env.simulator.ends()
    alive = ~(terminated | truncated)
    steps = 0
    while alive.any():
        observations, rewards, terminated, truncated, _ = env.step_alive(
            some_actions(env, rng), alive
        )
        values = observations.values() if isinstance(observations, dict) else [observations]
        assert all(np.isfinite(each).all() for each in values), "an observation is not finite"
        assert np.isfinite(rewards).all(), "a reward is not finite"
        alive &= ~(terminated | truncated)
        steps += 1
        assert steps < 100, "the episode does not end"
    env.reset()
    env.step(some_actions(env, rng))


def main() -> None:
    env_id, trials = sys.argv[1], int(sys.argv[2])
    accepted = 0
    for name, case in FUZZED.items():
        if case.env_id != env_id:
            continue
        for trial in range(trials):
            rng = np.random.default_rng(trial)
            damage = DAMAGES[trial % len(DAMAGES)]
            print(f"{name}: {damage.__name__}, trial {trial}", flush=True)
            state = somewhere(case, rng)
            damage(state, rng)
            env = case.vector(COUNT, autoreset_mode="Disabled")
            env.reset(seed=5)
            try:
                env.set_state(state)
            except ValueError:
                continue
            accepted += 1
            play_to_the_end(env, rng)
    print(f"accepted: {accepted}", flush=True)


if __name__ == "__main__":
    main()
