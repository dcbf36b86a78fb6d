"""`train` when its environment, its terminal or its process fails: what is learned is not lost."""

import contextlib
import io
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from grpo_gym import GRPO
from grpo_gym.cli.evaluate import main as evaluate
from grpo_gym.cli.outputs import released_at_the_end
from grpo_gym.cli.run import Run
from grpo_gym.cli.train import main
from grpo_gym.rollouts.native_batch import NativeBatch
from grpo_gym.settings import ConfigError
from grpo_gym.storage.claims import InUseError, claim_folder
from grpo_gym.trainers import grpo as grpo_module
from grpo_gym.trainers.settings import TrainSettings

ROOT = Path(__file__).resolve().parents[2]
EIGHT = [
    *("--num-groups", "2", "--group-size", "4", "--seed", "5", "--evaluation-episodes", "4"),
    *("--epochs", "1", "--num-minibatches", "4", "--env-kwargs", "episode_length=25"),
    *("--total-steps", "1600", "--evaluations", "1", "--final-episodes", "0"),
]
"""8 iterations of 200 steps, with a checkpoint only at the end."""
STEPS = 25
"""Of each environment in an iteration."""


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The weights of the uninterrupted run."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    assert main([*EIGHT, "--run-dir", str(folder), "--quiet"]) == 0
    return weights(folder)


def weights(folder: Path) -> str:
    return GRPO.load(folder / "checkpoints" / "latest.ckpt").weights_sha256()


def saved_iteration() -> int:
    return GRPO.load("run/checkpoints/latest.ckpt").iteration


def fail_in_step(patch: pytest.MonkeyPatch, number: int, action: Callable[[], object]) -> None:
    """Let something happen in this step of the environments, counted from 0 over all iterations."""
    original, count = NativeBatch.step, iter(range(10**9))

    def step(self: NativeBatch, *arguments: Any) -> Any:
        if next(count) == number:
            action()
        return original(self, *arguments)

    patch.setattr(NativeBatch, "step", step)


def raise_(error: BaseException) -> Callable[[], None]:
    def action() -> None:
        raise error

    return action


def interrupt_twice() -> None:
    os.kill(os.getpid(), signal.SIGINT)
    os.kill(os.getpid(), signal.SIGINT)
    raise AssertionError("the second one must not come back")


# A failing environment


@pytest.mark.parametrize("iteration", [1, 5, 7])
@pytest.mark.parametrize(
    "error", [ZeroDivisionError("speed"), MemoryError(), OSError(5, "no sensor"), SystemExit(0)]
)
def test_a_failing_environment_costs_no_whole_iteration(
    iteration: int, error: BaseException, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        fail_in_step(patch, iteration * STEPS + 7, raise_(error))
        try:
            assert main([*EIGHT, "--run-dir", "run", "--quiet"]) == 1
        except (ZeroDivisionError, RuntimeError) as shown:
            assert str(error) in str(shown)
    assert saved_iteration() == iteration
    assert main(["--resume", "run", "--quiet"]) == 0
    assert weights(Path("run")) == expected


def test_how_to_go_on_is_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fail_in_step(monkeypatch, 3 * STEPS, raise_(OSError(5, "no sensor")))
    assert main([*EIGHT, "--run-dir", "run"]) == 1
    *_, hint, error = capsys.readouterr().err.splitlines()
    assert hint.startswith("failed; resume with: ") and hint.endswith("--resume run")
    assert error == "error: no sensor"


def test_two_interrupts_while_collecting_cost_no_whole_iteration(
    expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        fail_in_step(patch, 5 * STEPS + 7, interrupt_twice)
        assert main([*EIGHT, "--run-dir", "run", "--quiet"]) == 130
    assert saved_iteration() == 5
    assert main(["--resume", "run", "--quiet"]) == 0
    assert weights(Path("run")) == expected


def test_half_an_update_is_not_saved(expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    original, count = grpo_module.update_policy, iter(range(100))

    def update_policy(policy: Any, *arguments: Any) -> Any:
        result = original(policy, *arguments)
        if next(count) == 5:
            raise FloatingPointError("the loss is nan")
        return result

    with monkeypatch.context() as patch:
        patch.setattr(grpo_module, "update_policy", update_policy)
        options = ["--checkpoint-every", "4", "--run-dir", "run", "--quiet"]
        assert main([*EIGHT, *options]) == 1
    assert saved_iteration() == 4
    assert main(["--resume", "run", "--quiet"]) == 0
    assert weights(Path("run")) == expected


def test_an_evaluation_that_fails_is_due_when_the_run_goes_on(
    expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise OSError(5, "no sensor")

    with monkeypatch.context() as patch:
        patch.setattr(GRPO, "evaluate", fail)
        assert main([*EIGHT, "--run-dir", "run", "--quiet"]) == 1
    assert saved_iteration() == 8
    assert not Path("run/checkpoints/best.ckpt").exists()
    assert main(["--resume", "run", "--quiet"]) == 0
    assert Path("run/checkpoints/best.ckpt").exists()
    assert weights(Path("run")) == expected


# The end of the terminal


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="signals of POSIX")
def test_a_terminal_that_hangs_up_stops_the_run_as_sigterm_does(
    expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def hang_up() -> None:  # shells send it more than once
        for _ in range(3):
            os.kill(os.getpid(), signal.SIGHUP)

    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)  # the tests may run under nohup
    try:
        with monkeypatch.context() as patch:
            fail_in_step(patch, 2 * STEPS + 7, hang_up)
            assert main([*EIGHT, "--run-dir", "run", "--quiet"]) == 129
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_DFL
    finally:
        signal.signal(signal.SIGHUP, before)
    assert saved_iteration() == 3, "the iteration is finished"
    assert main(["--resume", "run", "--quiet"]) == 0
    assert weights(Path("run")) == expected


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="signals of POSIX")
def test_after_nohup_a_run_goes_on(expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        fail_in_step(monkeypatch, 60, lambda: os.kill(os.getpid(), signal.SIGHUP))
        assert main([*EIGHT, "--run-dir", "run", "--quiet"]) == 0
    finally:
        signal.signal(signal.SIGHUP, before)
    assert weights(Path("run")) == expected


@pytest.fixture
def broken_stream() -> Iterator[io.TextIOWrapper]:
    """A pipe that nobody reads."""
    reading, writing = os.pipe()
    os.close(reading)
    with open(writing, "w", buffering=1) as stream:
        yield stream


def test_a_lost_standard_error_ends_nothing(
    expected: str, broken_stream: io.TextIOWrapper, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stderr", broken_stream)
    monkeypatch.setattr("grpo_gym.trainers.reporting._PLAIN_SECONDS", 0.0)
    assert main([*EIGHT, "--run-dir", "run"]) == 0
    assert sys.stderr is broken_stream
    assert weights(Path("run")) == expected


def test_a_standard_error_closed_from_the_start_ends_nothing(
    expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stderr", None)
    assert main([*EIGHT, "--run-dir", "run"]) == 0
    assert weights(Path("run")) == expected


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device of Linux")
def test_a_lost_table_shows_in_the_status(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--env", "LoadBalancer-v0", "--policy", "random", "--episodes", "2"]
    with open("/dev/full", "w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        assert evaluate([*arguments, "--env-kwargs", "episode_length=5"]) == 1
        monkeypatch.undo()
    assert capsys.readouterr().err == "error: No space left on device\n"


# One owner of a folder


def test_one_of_many_gets_a_new_folder() -> None:
    """Real processes are slow to begin at the same instant; threads are not."""
    settings = TrainSettings()
    for number in range(10):
        folder, together, owners = Path(f"run-{number}"), threading.Barrier(4), list[Run]()

        def create(folder: Path, together: threading.Barrier, owners: list[Run]) -> None:
            together.wait()
            with contextlib.suppress(ConfigError, InUseError):
                owners.append(Run.create(settings, folder))

        with released_at_the_end():
            threads = [
                threading.Thread(target=create, args=(folder, together, owners)) for _ in range(4)
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        assert len(owners) == 1
        assert [path.name for path in folder.iterdir()] == ["config.yaml"]


@pytest.mark.parametrize("option", ["--run-dir", "--resume"])
def test_a_folder_in_use_is_refused_by_its_owners_name(
    option: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with released_at_the_end():
        Run.create(TrainSettings(), Path("run"))
    before = {path: path.stat().st_mtime_ns for path in Path("run").iterdir()}
    others = EIGHT if option == "--run-dir" else []
    with claim_folder("run"):
        assert main([*others, option, "run"]) == 1
    error = capsys.readouterr().err
    assert (
        f"error: run is in use by this process: wait until it ends, or choose another {option}"
        in error
    )
    assert {path: path.stat().st_mtime_ns for path in Path("run").iterdir()} == before


def test_what_a_kill_in_the_first_write_leaves_can_be_used_again(
    expected: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    killed = subprocess.run(
        [
            sys.executable,
            "-c",
            "import os\nfrom grpo_gym.cli.train import main\n"
            "os.replace = lambda *_: os.kill(os.getpid(), 9)\n"
            f"main({[*EIGHT, '--run-dir', 'run', '--quiet']})",
        ],
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL
    assert sorted(path.suffix or path.name for path in Path("run").iterdir()) == [".lock", ".tmp"]
    assert main(["--resume", "run", "--quiet"]) == 2
    assert "nothing to resume; start a run there with --run-dir" in capsys.readouterr().err
    assert main([*EIGHT, "--run-dir", "run", "--quiet"]) == 0
    assert weights(Path("run")) == expected
    assert not list(Path("run").glob("*.tmp")) and not list(Path("run").glob(".*"))


@pytest.mark.slow
def test_of_two_processes_at_once_one_trains(expected: str) -> None:
    command = [sys.executable, str(ROOT / "scripts" / "train.py"), *EIGHT, "--run-dir", "run"]
    both = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    told = [process.communicate(timeout=300)[1] for process in both]
    statuses = [process.returncode for process in both]
    assert sorted(statuses) in ([0, 1], [0, 2]), told
    refused = told[statuses.index(max(statuses))]
    assert "run is in use by process" in refused or "must be new or empty" in refused
    assert weights(Path("run")) == expected


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="signals of POSIX")
def test_real_losses_of_the_terminal(expected: str) -> None:
    """Standard error goes with its reader, and then the terminal says so."""
    command = [sys.executable, str(ROOT / "scripts" / "train.py"), *EIGHT, "--run-dir", "run"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None and process.stderr.readline() == "run: run\n"
        process.stderr.close()
        time.sleep(0.2)
        process.send_signal(signal.SIGHUP)
        assert process.wait(300) in (0, 129)
    assert main(["--resume", "run", "--quiet"]) == 0
    assert weights(Path("run")) == expected
