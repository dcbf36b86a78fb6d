"""`compare` as its users call it: trains, goes on, refuses, reports."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from grpo_gym.cli.compare import main
from grpo_gym.trainers.comparison.measurements import Comparison

pytest.importorskip("stable_baselines3")
pytest.importorskip("sb3_contrib")
pytest.importorskip("matplotlib")

ROOT = Path(__file__).resolve().parents[2]
SMALL = [
    *("--env", "LoadBalancer-v0", "--env-kwargs", "episode_length=16", "--algorithms", "grpo,a2c"),
    *("--evaluations", "2", "--curve-episodes", "3", "--final-episodes", "4", "--seeds", "1"),
    *("--settings", "grpo=grpo.yaml", "a2c=a2c.yaml"),
]
OUT = Path("comparisons/LoadBalancer-v0.json")


@pytest.fixture(autouse=True)
def _settings_files(_scratch: None) -> None:
    grpo = "env: LoadBalancer-v0\ngrpo: {num_groups: 2, group_size: 4}\n"
    Path("grpo.yaml").write_text(grpo)
    Path("a2c.yaml").write_text("env: LoadBalancer-v0\nalgorithm: a2c\nnum_envs: 4\n")


def error_of(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main([*SMALL, *arguments]) == 2
    return " ".join(capsys.readouterr().err.split())


def test_trains_reports_and_goes_on(capsys: pytest.CaptureFixture[str]) -> None:
    steps = ["--total-steps", "256"]
    assert main([*SMALL, *steps, "--processes", "2"]) == 0
    values = json.loads(OUT.read_text())
    told = capsys.readouterr().err
    assert "a2c/seed 0: " in told and "after 256 steps" in told
    report = OUT.with_suffix("") / "report.md"
    assert report.is_file() and str(report) in told
    assert {"task", "baseline/random", "grpo/seed 0", "a2c/seed 0"} <= set(values)
    assert "a2c/seed 1" not in values
    task = values["task"]
    assert task["env_kwargs"] == {"episode_length": 16} and task["evaluation_seed"] == 5_000_000
    assert {"processor", "cores", "system"} == set(task["machine"])
    assert {"grpo_gym", "torch", "stable_baselines3", "python"} <= set(task["versions"])
    assert "compare" in task["command"] and "--total-steps 256" in task["command"]

    more = [word if word != "1" else "2" for word in SMALL]
    assert main([*more, *steps, "--processes", "2"]) == 0
    later = json.loads(OUT.read_text())
    assert {name: later[name] for name in values} == values
    assert set(later) - set(values) == {"grpo/seed 1", "a2c/seed 1"}
    assert main([*more, *steps, "--first-seed", "1", "--processes", "2"]) == 0
    latest = json.loads(OUT.read_text())
    assert set(latest) - set(later) == {"grpo/seed 2", "a2c/seed 2"}

    assert main(["--no-train", "--out", str(OUT), "--report", "elsewhere"]) == 0
    assert Path("elsewhere/report.md").is_file()
    before = OUT.read_bytes()
    error = error_of(capsys, "--total-steps", "257")
    assert "task.total_steps was 256 there and is 257 now: choose another --out" in error
    Path("a2c.yaml").write_text("env: LoadBalancer-v0\nalgorithm: a2c\nnum_envs: 8\n")
    error = error_of(capsys, *steps)
    assert "a2c/seed 0: settings.num_envs was 4 there and is 8 now" in error
    assert OUT.read_bytes() == before


def test_what_makes_no_sense_is_refused_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    def error_alone(*arguments: str) -> str:
        assert main(arguments) == 2
        return " ".join(capsys.readouterr().err.split())

    assert "Did you mean 'ppo'" in error_alone("--algorithms", "grpo,poo")
    assert "must name each once, got ppo,ppo" in error_alone("--algorithms", "ppo", "ppo")
    assert "--no-train must come with --out" in error_alone("--no-train")
    assert "--out must be one file" in error_alone("--out", "a.json", "b.json")
    assert "must come with trpo among --algorithms" in error_alone("--settings", "trpo=x.yaml")
    assert "got maskable_ppo" in error_alone("--env", "CartPole-v1", "--algorithms", "maskable_ppo")
    assert "cannot read nowhere.yaml" in error_alone("--settings", "ppo=nowhere.yaml")
    assert "processes must be <= " in error_alone("--processes", "100000")
    assert "seeds must be <= 10000" in error_alone("--seeds", "1e9")
    Path("folder").mkdir()
    assert "--out must be a file that can be written" in error_alone("--out", "folder")
    Path("bad.yaml").write_text("env: LoadBalancer-v0\nsettings: {n_stepz: 4}\n")
    assert "Did you mean 'n_steps'" in error_alone("--settings", "ppo=bad.yaml")
    assert not Path("comparisons/LoadBalancer-v0.json").exists()


def test_a_full_disk_is_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, *_: bytes) -> None:
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr("grpo_gym.storage.results.write_atomic", full)
    assert main([*SMALL, "--total-steps", "64", "--processes", "1"]) == 1
    assert capsys.readouterr().err.splitlines()[-1].endswith("No space left on device")


def test_a_killed_training_is_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from concurrent.futures.process import BrokenProcessPool

    def killed(*_: Any) -> None:
        raise BrokenProcessPool("terminated abruptly")

    monkeypatch.setattr(Comparison, "measure", killed)
    assert main([*SMALL, "--total-steps", "64"]) == 1
    assert "fewer --processes" in capsys.readouterr().err


def start(*arguments: str) -> subprocess.Popen[str]:
    """A comparison that never ends, once it has begun to keep results."""
    command = [sys.executable, str(ROOT / "scripts" / "compare.py"), *SMALL, *arguments]
    process = subprocess.Popen(
        [*command, "--total-steps", "1e9"],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    deadline = time.monotonic() + 300.0
    while not OUT.is_file() and time.monotonic() < deadline:
        time.sleep(0.1)
    return process


def processes_of(session: int) -> list[int]:
    """Running processes of a session, without those that only wait to be noticed."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, _, its_session = path.read_text().rpartition(")")[2].split()[:4]
        except OSError:
            continue
        if int(its_session) == session and state != "Z":
            found.append(int(path.parent.name))
    return found


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
@pytest.mark.parametrize("number", ["SIGKILL", "SIGHUP", "SIGTERM"])
def test_no_training_goes_on_for_nobody(number: str) -> None:
    process = start("--processes", "2")
    deadline = time.monotonic() + 60.0
    while len(processes_of(process.pid)) < 3 and time.monotonic() < deadline:
        time.sleep(0.1)  # until the workers are there
    time.sleep(2.0)
    os.kill(process.pid, getattr(signal, number))
    process.wait(60.0)
    deadline = time.monotonic() + 10.0
    while processes_of(process.pid) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert processes_of(process.pid) == []
    assert "task" in json.loads(OUT.read_text())


@pytest.mark.slow
def test_of_two_at_once_one_is_refused_and_nothing_is_lost() -> None:
    steps = ["--total-steps", "256", "--processes", "1"]
    command = [sys.executable, str(ROOT / "scripts" / "compare.py"), *SMALL, *steps]
    both = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    told = [process.communicate(timeout=300)[1] for process in both]
    assert sorted(process.returncode for process in both) == [0, 1], told
    assert any("is in use by process" in each for each in told)
    assert {"grpo/seed 0", "a2c/seed 0"} <= json.loads(OUT.read_text()).keys()


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_ctrl_c_keeps_what_is_finished() -> None:
    """The signal goes to all processes, as a terminal sends it."""
    with start("--processes", "1") as process:
        os.killpg(process.pid, signal.SIGINT)
        _, told = process.communicate(timeout=300)
    assert process.returncode == 130, told
    assert "stopped; resume with: python " in told and "--total-steps 1e9" in told
    values = json.loads(OUT.read_text())
    assert "task" in values and any(name.startswith("baseline/") for name in values)


def test_what_was_chosen_and_changed_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    budget = ["--evaluations", "2", "--curve-episodes", "1", "--final-episodes", "1"]
    call = ["--algorithms", "grpo", "--seeds", "1", "--total-steps", "64", *budget]
    assert main(["--env", "MountainCar-v0", *call]) == 0
    told = capsys.readouterr().err
    assert "grpo: not tuned for this task" in told
    assert "settings from the task: num_groups 4, group_size 16, baseline auto" in told
    results = json.loads(Path("comparisons/MountainCar-v0.json").read_text())
    assert results["grpo/seed 0"]["settings"]["grpo"]["baseline"] == "auto"

    Path("grpo.yaml").write_text(
        "env: LoadBalancer-v0\ntraining_env_kwargs: {reward: latency}\n"
        "grpo: {num_groups: 2, group_size: 4}\n"
    )
    args = ["--env-kwargs", "episode_length=16", "--settings", "grpo=grpo.yaml"]
    assert main(["--env", "LoadBalancer-v0", *args, *call]) == 0
    note = "GRPO trains with reward=latency; evaluations are of the task itself"
    assert note in capsys.readouterr().err
    assert note in Path("comparisons/LoadBalancer-v0/report.md").read_text()
