"""Record, or check, what must not change when code only moves.

    python tests/fingerprints.py            # compare with tests/data/fingerprints.json
    python tests/fingerprints.py --record   # write that file anew
    python tests/fingerprints.py --part environments trainings   # seconds instead of minutes

Fingerprints cover observations, snapshots, trained weights and resolved settings. They hold on
one kind of machine: elsewhere floating-point results may differ in their last bits.
"""

import argparse
import hashlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import yaml

import grpo_gym
from grpo_gym.registration import DESCRIPTORS

Task = tuple[str, Callable[[], dict[str, Any]]]
ROOT = Path(__file__).resolve().parent.parent
RECORDED = ROOT / "tests" / "data" / "fingerprints.json"
VARIANTS = [
    "default",
    "grpo",
    "dr_grpo",
    "rloo",
    "loop",
    "dapo",
    "magistral",
    "lite_ppo",
    "reinforce_pp",
    "gspo",
    "tic",
    "cispo",
    "gpg_time",
    "gr2po",
    "gigpo",
    "vine",
    "trust_region",
]
SMALL = {"num_groups": 2, "group_size": 4, "hidden_sizes": (16,), "max_episode_steps": 60}
NETWORKS: dict[str, tuple[str, str, dict[str, Any], dict[str, Any]]] = {
    "linear, LoadBalancer": ("linear", "LoadBalancer-v0", {}, {}),
    "mlp, LoadBalancer park": ("mlp", "LoadBalancer-v0", {"preset": "park"}, {}),
    "mlp, relu, frame history": (
        "mlp",
        "LoadBalancer-v0",
        {},
        {"frame_history": 3, "activation": "relu"},
    ),
    "mlp, unrelated": ("mlp", "LoadBalancer-v0", {}, {"grouping": "unrelated"}),
    "mlp, branch": (
        "mlp",
        "LoadBalancer-v0",
        {},
        {"grouping": "branch", "branch_every": 20, "branch_lookahead": 5, "branch_from": "best"},
    ),
    "mlp, Battleship": ("mlp", "Battleship-v0", {"preset": "uniform-5x5"}, {}),
    "board, Battleship": (
        "board",
        "Battleship-v0",
        {"preset": "uniform-5x5"},
        {"channels": 8, "blocks": 1, "augment_symmetries": True},
    ),
    "mlp, AutoScaler": ("mlp", "AutoScaler-v0", {}, {"minibatches": "time_steps"}),
    "mlp, AutoScaler joint": ("mlp", "AutoScaler-v0", {"preset": "diurnal-joint"}, {}),
    "gru, AutoScaler": ("gru", "AutoScaler-v0", {"history": 6}, {"gru_width": 8}),
    "temporal, AutoScaler": (
        "temporal",
        "AutoScaler-v0",
        {"history": 6},
        {"lstm_width": 16, "transformer_heads": 4, "feedforward_width": 16, "lstm_layers": 1},
    ),
    "mlp, Pendulum": ("mlp", "Pendulum-v1", {}, {"final_discount": 0.999}),
    "mlp, learned baseline": (
        "mlp",
        "CartPole-v1",
        {},
        {"learned_baseline": True, "target_kl": 1e-3},
    ),
    "mlp, reference": (
        "mlp",
        "CartPole-v1",
        {},
        {"kl_coefficient": 0.1, "kl_reference": "moving_average", "kl_estimator": "k3_plus"},
    ),
    "mlp, FrozenLake": (
        "mlp",
        "FrozenLake-v1",
        {},
        {"baseline": "state_bin", "state_bin_width": 0.0},
    ),
}


def digest(*values: Any) -> str:
    """A hash of nested arrays, mappings and plain values, types and shapes included."""
    total = hashlib.sha256()

    def add(value: Any) -> None:
        if isinstance(value, dict):
            for name in sorted(value):
                total.update(name.encode())
                add(value[name])
        elif isinstance(value, list | tuple):
            for item in value:
                add(item)
        elif isinstance(value, np.ndarray) and value.dtype != object:
            total.update(f"{value.dtype}{value.shape}".encode())
            total.update(np.ascontiguousarray(value).tobytes())
        elif isinstance(value, np.ndarray):
            add(value.tolist())
        else:
            total.update(repr(value).encode())

    add(values)
    return total.hexdigest()[:16]


def legal(space: gym.Space[Any], infos: dict[str, Any], rng: np.random.Generator, rows: int) -> Any:
    """Random actions, legal where infos hold a mask of a Discrete."""
    if isinstance(space, gym.spaces.Discrete):
        mask = infos.get("action_mask")
        if mask is None:
            return rng.integers(int(space.n), size=rows)
        chances = rng.random((rows, int(space.n))) * np.reshape(mask, (rows, -1))
        return chances.argmax(axis=1)
    assert isinstance(space, gym.spaces.MultiDiscrete)
    return rng.integers(space.nvec, size=(rows, len(space.nvec)))


def environment(env_id: str, preset: str) -> dict[str, str]:
    """Observations and states of vector and single environments under random actions."""
    rng = np.random.default_rng(5)
    details: dict[str, Any] = {"infos": "full"} if env_id == "LoadBalancer-v0" else {}
    vec: Any = gym.make_vec(env_id, num_envs=4, preset=preset, **details)
    observations, infos = vec.reset(seed=[7, 7, 8, 9])
    seen: list[Any] = [observations, dict(infos)]
    for step in range(150):
        result = vec.step(legal(vec.single_action_space, infos, rng, 4))
        infos = result[4]
        seen.append(result)
        if step == 75:
            state = vec.get_state()
    env: Any = gym.make(env_id, preset=preset).unwrapped
    observation, info = env.reset(seed=3)
    alone: list[Any] = [observation, dict(info)]
    for _ in range(80):
        action = legal(env.action_space, info, rng, 1)[0]
        observation, reward, terminated, truncated, info = env.step(action)
        alone.append((observation, reward, terminated, truncated, info))
        if terminated or truncated:
            observation, info = env.reset()
    return {
        "vector": digest(*seen),
        "state": digest(_content(state)),
        "single": digest(*alone),
        "single state": digest(_content(env.get_state())),
    }


def _content(state: dict[str, Any]) -> dict[str, Any]:
    """A snapshot without the fingerprint of its settings, which every new setting changes."""
    return {name: array for name, array in state.items() if name != "fingerprint"}


def training(policy: str, env: str, env_kwargs: dict[str, Any], **settings: Any) -> dict[str, Any]:
    """Weights and evaluated returns after three iterations."""
    model = grpo_gym.GRPO(policy, env, env_kwargs=env_kwargs, seed=11, **{**SMALL, **settings})
    for _ in range(3):
        stats = model.train_iteration()
    evaluation = model.evaluate(episodes=6)
    return {
        "weights": model.weights_sha256(),
        "steps": stats.num_steps,
        "returns": digest(evaluation.returns),
    }


def command(*arguments: str) -> dict[str, str]:
    """The weights that a training command prints, and the settings it resolves."""
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        words = [sys.executable, "scripts/train.py", *arguments, "--run-dir", str(run)]
        done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
        if done.returncode:
            return {"error": done.stderr[-300:]}
        resolved = yaml.safe_load((run / "config.yaml").read_text())
    if not resolved["policy_kwargs"]:
        del resolved["policy_kwargs"]  # a setting added after the sums were recorded
    lines = done.stderr.splitlines()
    weights = [line.split()[-1] for line in lines if line.startswith("weights sha256:")]
    return {"weights": weights[0] if weights else digest(done.stdout), "settings": digest(resolved)}


def environments() -> Iterator[Task]:
    """Every preset of every native environment."""
    for descriptor in DESCRIPTORS:
        env_id = descriptor.env_id
        for preset in descriptor.preset_names:
            yield f"{env_id} {preset}", partial(environment, env_id, preset)


def trainings() -> Iterator[Task]:
    """Every network and every preset of GRPO, briefly."""
    for name, (policy, env, env_kwargs, settings) in NETWORKS.items():
        yield name, partial(training, policy, env, env_kwargs, **settings)
    for preset in VARIANTS:
        yield f"preset {preset}", partial(training, "mlp", "CartPole-v1", {}, preset=preset)


def commands() -> Iterator[Task]:
    """One iteration of every shipped YAML file, online GRPO, and the README's training."""
    short = ("--total-steps", "1", "--evaluations", "0", "--final-episodes", "0")
    for pattern in ("*.yaml", "comparison/grpo/*.yaml"):
        for path in sorted((ROOT / "configs").glob(pattern)):
            name = f"configs {path.relative_to(ROOT / 'configs')}"
            if path.name.startswith(("MiniGrid-", "pong-")):
                continue  # needs an id of one's own
            yield name, partial(command, "--config", str(path), *short)
    online = ("--algo", "online")
    learning = ("--total-steps", "20000", "--final-episodes", "200")
    yield "online flaky", partial(command, *online, *learning)
    yield "online tiny-grpo", partial(command, *online, "--env-kwargs", "preset=tiny-grpo")
    yield "README", partial(command, "--env", "LoadBalancer-v0", "--final-episodes", "0")


PARTS = {"environments": environments, "trainings": trainings, "commands": commands}


def main() -> int:
    """Record or compare; returns 1 where something differs."""
    parser = argparse.ArgumentParser(description="Record or compare fingerprints.")
    parser.add_argument("--record", action="store_true", help="write the file anew")
    parser.add_argument("--part", nargs="*", default=list(PARTS), choices=list(PARTS))
    options = parser.parse_args()
    recorded = json.loads(RECORDED.read_text()) if RECORDED.exists() else {}
    differing = 0
    for part in options.part:
        for name, measure in PARTS[part]():
            key, found = f"{part}: {name}", measure()
            if options.record:
                recorded[key] = found
                RECORDED.write_text(json.dumps(recorded, indent=1, sort_keys=True) + "\n")
            elif recorded.get(key) != found:
                differing += 1
                print(f"{key}: {recorded.get(key)} -> {found}")
    print(f"{len(recorded)} recorded" if options.record else f"{differing} differ")
    return int(differing > 0)


if __name__ == "__main__":
    sys.exit(main())
