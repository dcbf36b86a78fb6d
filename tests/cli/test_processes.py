"""`train --processes` and torchrun with real processes, and what happens when some are lost."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from grpo_gym import GRPO
from grpo_gym.cli.main import main as grpo_gym_main
from grpo_gym.cli.run import Run
from grpo_gym.cli.train import main
from grpo_gym.trainers.settings import new_model

ROOT = Path(__file__).resolve().parents[2]
TRAIN = [sys.executable, str(ROOT / "scripts" / "train.py")]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node"]
SMALL = [
    *("--num-groups", "4", "--group-size", "4", "--env-kwargs", "episode_length=20"),
    *("--epochs", "1", "--num-minibatches", "4", "--seed", "5", "--final-episodes", "0"),
    *("--evaluations", "2", "--evaluation-episodes", "4"),
]
SHORT = [*SMALL, "--total-steps", "1280"]
"""4 iterations."""
LONG_STEPS = 100_000_000
LONG = [*SMALL[:-4], "--total-steps", str(LONG_STEPS), "--evaluations", "0"]
LONG += ["--checkpoint-every", "1"]
"""Until it is stopped."""
WITHIN_SECONDS = 60.0


def ended(command: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*command, "--run-dir", folder], capture_output=True, text=True, check=False, timeout=300
    )


def weights(folder: Path) -> str:
    return GRPO.load(folder / "checkpoints" / "latest.ckpt").weights_sha256()


@pytest.mark.parametrize("shared", ["1", pytest.param("0", marks=pytest.mark.slow)])
def test_two_processes_print_the_hash_of_one(
    shared: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("GRPO_GYM_SHARED_MEMORY", shared)
    assert main([*SHORT, "--run-dir", str(tmp_path / "one")]) == 0
    (wanted,) = re.findall("weights sha256: .*", capsys.readouterr().err)
    done = ended([*TRAIN, *SHORT, "--processes", "2"], tmp_path / "two")
    assert done.returncode == 0, done.stderr
    assert re.findall("weights sha256: .*", done.stderr) == [wanted]
    assert done.stderr.count("run: ") == 1  # the other one is silent
    assert weights(tmp_path / "two") == weights(tmp_path / "one")
    assert sorted(path.name for path in (tmp_path / "two" / "checkpoints").iterdir()) == [
        "best.ckpt",
        "latest.ckpt",
    ]
    assert len(list((tmp_path / "two").glob("events.*"))) == 1


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (["--processes", "5"], "num_groups must be >= the number of processes, 5, got 4"),
        (
            ["--processes", "2", "--gradient-shards", "1"],
            "gradient_shards must be >= the number of processes, 2, got 1",
        ),
        (["--processes", "0"], "processes must be >= 1, got '0'"),
        (
            ["--processes", "2", "--algo", "online"],
            "--processes is for --algo grpo",
        ),
    ],
)
def test_what_cannot_be_shared_is_refused_before_any_work(
    options: list[str], line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    given = options if "online" in options else [*SHORT, *options]
    assert main(given) == 2
    assert line in capsys.readouterr().err
    assert not Path("runs").exists()


def test_torchrun_is_for_training_only(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in {"WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(name, value)
    for rank, said in (("0", "error: torchrun must start train, got compare\n"), ("1", "")):
        monkeypatch.setenv("RANK", rank)
        assert grpo_gym_main(["compare"]) == 2
        assert capsys.readouterr().err == said
    monkeypatch.setenv("RANK", "0")
    assert main(["--algo", "online", "--env-kwargs", "preset=tiny-grpo"]) == 2
    assert "--algo must be grpo under torchrun" in capsys.readouterr().err
    assert main([*SHORT, "--processes", "2"]) == 2
    assert "processes must be 1 under torchrun, which has started 2" in capsys.readouterr().err


@pytest.mark.slow  # starts 8 processes that load torch
def test_torchrun_and_a_run_that_goes_on_with_other_numbers(tmp_path: Path) -> None:
    one = ended([*TRAIN, *SHORT], tmp_path / "one")
    many = ended([*TORCHRUN, "4", TRAIN[1], *SHORT], tmp_path / "four")
    hashes = [re.findall("weights sha256: .*", done.stderr) for done in (one, many)]
    assert hashes[0] == hashes[1] and len(hashes[0]) == 1
    # 2 iterations by one process, then 4, then one again; the whole is that of one.
    for length, processes in (("640", "1"), ("1280", "4"), ("1920", "1")):
        where = ["--run-dir" if processes + length == "1640" else "--resume", tmp_path / "mixed"]
        settings = SMALL if "--run-dir" in where else []
        for folder, number in ((where[1], processes), (tmp_path / "alone", "1")):
            command = [*TRAIN, *settings, "--total-steps", length, "--processes", number]
            done = subprocess.run([*command, where[0], folder], check=False, capture_output=True)
            assert done.returncode == 0, done.stderr
        assert weights(tmp_path / "mixed") == weights(tmp_path / "alone")


@contextmanager
def running(folder: Path, processes: int) -> Iterator[tuple[subprocess.Popen[str], list[int]]]:
    """A run that has made progress, and the process ids of the others."""
    command = [*TRAIN, *LONG, "--processes", str(processes), "--run-dir", str(folder)]
    run = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        assert run.stderr is not None
        while "steps/s" not in (line := run.stderr.readline()):
            assert line, run.wait()
        yield run, _spawned_by(run.pid)
    finally:
        run.kill()
        run.wait()


def _is_alive(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def _spawned_by(parent: int) -> list[int]:
    children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    return [
        int(child)
        for child in children
        if "spawn_main" in Path(f"/proc/{child}/cmdline").read_text()
    ]


@pytest.mark.slow  # waits for half a minute until a process counts as lost
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("shared", ["1", "0"])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_lost_process_ends_the_others_with_one_error(
    number: int, shared: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRPO_GYM_SHARED_MEMORY", shared)
    with running(tmp_path / "run", 3) as (run, others):
        began = time.monotonic()
        os.kill(others[1], number)
        assert run.wait(WITHIN_SECONDS) == 1
        assert time.monotonic() - began < WITHIN_SECONDS
        assert run.stderr is not None
        said = run.stderr.read()
    assert said.count("error: ") == 1
    assert f"error: process 2 of 3 ({others[1]} on " in said and "was lost" in said
    assert not any(map(_is_alive, others))
    # What is saved is what one process has learned by then, and goes on.
    saved = GRPO.load(tmp_path / "run" / "checkpoints" / "latest.ckpt")
    alone = new_model(Run.open(tmp_path / "run").settings)
    alone.learn(LONG_STEPS, callback=lambda model, _: model.iteration < saved.iteration)
    assert saved.weights_sha256() == alone.weights_sha256()
    saved.resume(callback=lambda *_: False)
    assert saved.iteration == alone.iteration + 1


FAILING = """
import multiprocessing
import gymnasium as gym
import numpy as np

class Failing(gym.Env):
    observation_space = gym.spaces.Box(-1.0, 1.0, (1,), np.float32)
    action_space = gym.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.left = 5
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self.left -= 1
        if multiprocessing.parent_process() is not None and self.left == 1:
            raise RuntimeError("no sensor")
        return np.zeros(1, np.float32), float(action), self.left == 0, False, {}

gym.register("Failing-v0", entry_point=Failing)
"""


@pytest.mark.slow  # starts a process that loads torch
def test_an_error_of_another_process_is_one_line_with_the_status_of_one(tmp_path: Path) -> None:
    (tmp_path / "failing.py").write_text(FAILING)
    options = [*("--env", "failing:Failing-v0", "--num-groups", "4", "--total-steps", "1e4")]
    done = subprocess.run(
        [*TRAIN, *options, "--processes", "2", "--run-dir", tmp_path / "run"],
        capture_output=True, text=True, check=False, timeout=120,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
    )  # fmt: skip
    assert done.returncode == 1
    *_, hint, error = done.stderr.splitlines()
    assert hint.startswith("failed; resume with: ")
    assert re.fullmatch(r"error: Failing-v0\.step\(\), seed \d+, step 4: .*no sensor.*", error)
    assert done.stderr.count("error: ") == 1


@pytest.mark.slow  # starts 3 processes that load torch
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_signal_to_one_process_stops_all_after_the_same_iteration(tmp_path: Path) -> None:
    with running(tmp_path / "run", 3) as (run, others):
        os.kill(others[0], signal.SIGTERM)
        assert run.wait(WITHIN_SECONDS) == 128 + signal.SIGTERM
        assert run.stderr is not None
        assert "stopped; resume with: " in run.stderr.read()
    assert GRPO.load(tmp_path / "run" / "checkpoints" / "latest.ckpt").iteration > 0
