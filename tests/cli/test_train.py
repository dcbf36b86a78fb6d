"""`train` as its users call it: tiny runs, in-process except where the process is the point."""

import errno
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.envs.registration import EnvSpec
from tensorboard.backend.event_processing.event_accumulator import (  # type: ignore[import-untyped]
    EventAccumulator,
)

from grpo_gym import GRPO
from grpo_gym.cli import run as run_module
from grpo_gym.cli.main import main as grpo_gym_main
from grpo_gym.cli.run import Run
from grpo_gym.cli.train import main
from grpo_gym.settings import load_yaml
from grpo_gym.storage import checkpoint
from grpo_gym.trainers.named_policies import baseline_names
from grpo_gym.trainers.settings import TrainSettings

ROOT = Path(__file__).resolve().parents[2]
SMALL = [
    *("--num-groups", "2", "--group-size", "4", "--checkpoint-every", "2", "--seed", "5"),
    *("--evaluation-episodes", "4", "--epochs", "1", "--num-minibatches", "4"),
]
TABLE = ["--final-episodes", "4"]
NO_TABLE = ["--final-episodes", "0"]
EIGHT = [
    *SMALL,
    *("--env-kwargs", "episode_length=25", "--total-steps", "1600", "--evaluations", "4"),
]
"""8 iterations of 200 steps, an evaluation after every other one."""
TINY = [*EIGHT, *NO_TABLE]
"""The same without the closing table, which costs as much as all the rest."""


@dataclass(frozen=True)
class Finished:
    folder: Path
    status: int
    out: str
    err: str


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Finished]:
    """One uninterrupted run that many tests look at and none changes."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    done = subprocess.run(
        [sys.executable, ROOT / "scripts" / "train.py", *EIGHT, *TABLE, "--run-dir", folder],
        capture_output=True,
        text=True,
        env={**os.environ, "COLUMNS": "80"},
        check=False,
    )
    yield Finished(folder, done.returncode, done.stdout, done.stderr)


def events(folder: Path) -> EventAccumulator:
    accumulator = EventAccumulator(str(folder), size_guidance={"scalars": 0, "images": 0})
    return accumulator.Reload()


def steps_of(folder: Path, tag: str) -> list[int]:
    return [event.step for event in events(folder).Scalars(tag)]


def weights(folder: Path, name: str = "latest") -> str:
    return GRPO.load(folder / "checkpoints" / f"{name}.ckpt").weights_sha256()


def after_iteration(
    monkeypatch: pytest.MonkeyPatch, iteration: int, action: Callable[[], object]
) -> None:
    """Let something happen at the end of an iteration, before anything is saved."""
    original = GRPO.train_iteration

    def train_iteration(self: GRPO) -> Any:
        stats = original(self)
        if self.iteration == iteration:
            action()
        return stats

    monkeypatch.setattr(GRPO, "train_iteration", train_iteration)


def killed(method: str, body: str) -> None:
    """Train in a process of its own that kills itself (-9) in a method of `GRPO`.

    `body` follows the call of the method, with `self`, its `arguments` and `die()`.
    """
    code = f"""
import os, signal, sys
from pathlib import Path
from grpo_gym import GRPO
from grpo_gym.cli.train import main

original = GRPO.{method}

def die():
    os.kill(os.getpid(), signal.SIGKILL)

def replacement(self, *arguments):
    result = original(self, *arguments)
    {body}
    return result

GRPO.{method} = replacement
sys.exit(main(sys.argv[1:]))
"""
    command = [sys.executable, "-c", code, *TINY, "--run-dir", "run", "--quiet"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr


def send(number: int) -> Callable[[], None]:
    return lambda: os.kill(os.getpid(), number)


# What a run leaves behind


def test_a_run_ends_well_and_says_where_it_is(finished: Finished) -> None:
    assert finished.status == 0, finished.err
    assert f"run: {finished.folder}" in finished.err
    assert re.search(r"1,600/1,600 steps, [\d,]+ steps/s, return -?[\d.]+, 0 s left", finished.err)


def test_a_run_leaves_config_events_and_both_checkpoints(finished: Finished) -> None:
    names = {str(path.relative_to(finished.folder)) for path in finished.folder.rglob("*.*")}
    assert {"config.yaml", "checkpoints/latest.ckpt", "checkpoints/best.ckpt"} <= names
    config = load_yaml(finished.folder / "config.yaml")
    assert config["env_kwargs"] == {"episode_length": 25}
    assert config["grpo"]["seed"] == 5


def test_the_table_shows_the_policy_among_all_baselines(finished: Finished) -> None:
    rows = [line.split() for line in finished.out.splitlines() if line.startswith("  ")]
    names = {row[0] for row in rows if row}
    assert {">", *baseline_names("LoadBalancer-v0")} <= names
    assert "> trained policy" in finished.out
    assert re.search(r"oracle \*", finished.out)
    assert not re.search(r"least_connections \*", finished.out)
    assert "length" not in finished.out, "every episode has 25 steps: the column says nothing"
    numbers = r"^  [> ] \S+(?: policy| \*)? +(-?[\d.]+) "
    means = [float(mean) for mean in re.findall(numbers, finished.out, re.MULTILINE)]
    assert len(means) == len(names) - 1
    assert means == sorted(means, reverse=True)


def test_without_a_terminal_there_are_no_control_codes_and_80_columns(finished: Finished) -> None:
    assert not re.search(r"[\x00-\x08\x0b-\x1f]", finished.out + finished.err)
    assert max(map(len, finished.out.splitlines())) <= 80
    assert "…" not in finished.out


def test_the_events_hold_scalars_of_each_iteration_and_pictures(finished: Finished) -> None:
    assert steps_of(finished.folder, "rollout/return_mean") == list(range(200, 1601, 200))
    assert steps_of(finished.folder, "eval/return_mean") == [400, 800, 1200, 1600]
    images = events(finished.folder).Images("eval/episode")
    assert [image.step for image in images] == [400, 800, 1200, 1600]
    assert images[0].width > 400


def test_exactly_the_recorded_tags_are_documented(finished: Finished) -> None:
    text = (ROOT / "docs" / "reference" / "metrics.md").read_text(encoding="utf-8")
    text = text[: text.index("## Online runs")]
    documented = re.findall(r"^\| `((?:rollout|train|time|eval)/\w+)` \|", text, re.MULTILINE)
    tags = events(finished.folder).Tags()
    # Of runs with a baseline that predicts from states, or with workers.
    of_other_runs = [
        *("train/explained_variance", "train/explained_variance_time_step"),
        "rollout/lost_workers",
    ]
    assert sorted(documented) == sorted([*tags["scalars"], *tags["images"], *of_other_runs])


def test_the_best_checkpoint_is_the_best_evaluation(finished: Finished) -> None:
    evaluations = events(finished.folder).Scalars("eval/return_mean")
    best = max(evaluations, key=lambda event: event.value)
    model = GRPO.load(finished.folder / "checkpoints" / "best.ckpt")
    assert model.num_steps == best.step
    assert model.notes["return"] == pytest.approx(best.value, rel=1e-6)


def test_the_config_of_a_run_repeats_it(finished: Finished) -> None:
    config = str(finished.folder / "config.yaml")
    assert main(["--config", config, "--run-dir", "again", *NO_TABLE]) == 0
    assert weights(Path("again")) == weights(finished.folder)
    assert main(["--config", config, "--run-dir", "other", "--seed", "4", *NO_TABLE]) == 0
    assert weights(Path("other")) != weights(finished.folder)


@pytest.mark.parametrize("env", ["CartPole-v1", "Pendulum-v1"])
@pytest.mark.parametrize("pygame", ["present", "missing"])
def test_third_party_environments(
    env: str, pygame: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    if pygame == "missing":
        monkeypatch.setitem(sys.modules, "pygame", None)
    arguments = ["--env", env, *SMALL, *TABLE, "--total-steps", "100", "--evaluations", "1"]
    assert main([*arguments, "--run-dir", "run"]) == 0
    out, err = capfd.readouterr()
    assert re.search(r"^  > trained policy +-?\d", out, re.MULTILINE)
    assert re.search(r"^    random +-?\d", out, re.MULTILINE)
    assert "error" not in err
    tags = events(Path("run")).Tags()
    assert "eval/return_mean" in tags["scalars"]
    if pygame == "missing":
        assert tags["images"] == []


# Resuming


def test_resuming_a_finished_run_shows_the_table_and_trains_nothing(
    finished: Finished, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.stat().st_mtime_ns for path in finished.folder.rglob("*")}
    assert main(["--resume", str(finished.folder)]) == 0
    assert capsys.readouterr().out == finished.out
    assert {path: path.stat().st_mtime_ns for path in finished.folder.rglob("*")} == before


@pytest.mark.parametrize("iteration", [1, 5, 8])
def test_a_killed_run_goes_on_to_the_same_end(iteration: int, finished: Finished) -> None:
    killed("train_iteration", f"if self.iteration == {iteration}: die()")
    assert Path("run/checkpoints/latest.ckpt").exists() == (iteration > 2)
    assert main(["--resume", "run", "--quiet"]) == 0
    assert_same_run(Path("run"), finished.folder)


def test_a_finished_run_goes_on_to_more_steps(capsys: pytest.CaptureFixture[str]) -> None:
    line = "--env CartPole-v1 --num-groups 2 --group-size 4 --evaluation-episodes 2 --quiet"
    line += " --final-episodes 0 --evaluations 4 --learning-rate-schedule constant --run-dir"
    assert main([*line.split(), "long", "--total-steps", "3000"]) == 0
    assert main([*line.split(), "run", "--total-steps", "1000"]) == 0
    first = steps_of(Path("run"), "eval/return_mean")
    assert main(["--resume", "run", "--total-steps", "3000", "--quiet"]) == 0
    assert weights(Path("run")) == weights(Path("long"))
    assert load_yaml(Path("run/config.yaml"))["total_steps"] == 3000
    model = GRPO.load("run/checkpoints/latest.ckpt")
    assert (model.schedule.start, model.schedule.end) == (0, 3000)
    evaluated = steps_of(Path("run"), "eval/return_mean")
    assert evaluated[: len(first)] == first
    assert evaluated[-1] == model.num_steps >= 3000
    assert len(evaluated) in (len(first) + 2, len(first) + 3), "a quarter of 3,000 steps apart"
    capsys.readouterr()
    assert main(["--resume", "run", "--total-steps", "2000"]) == 2
    assert "--total-steps must be >= 3000 with --resume, got 2000" in capsys.readouterr().err


def test_a_run_that_failed_while_it_was_made_longer_can_be_made_longer_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    line = "--env CartPole-v1 --num-groups 2 --group-size 4 --evaluations 0 --final-episodes 0"
    line += " --quiet --run-dir"
    longer = ["--total-steps", "600", "--quiet"]
    for folder in ("run", "other"):
        assert main([*line.split(), folder, "--total-steps", "300"]) == 0

    def die(*_: Any) -> None:
        raise OSError

    with monkeypatch.context() as patch:
        patch.setattr("grpo_gym.cli.run.save_yaml", die)
        assert main(["--resume", "run", *longer]) == 1
    for folder in ("run", "other"):
        assert main(["--resume", folder, *longer]) == 0
    assert weights(Path("run")) == weights(Path("other"))


def test_a_run_killed_between_its_two_checkpoints_keeps_the_best(finished: Finished) -> None:
    best = "Path(arguments[0]).name == 'best.ckpt'"
    killed("save", f"if self.num_steps >= 800 and {best}: die()")
    assert main(["--resume", "run", "--quiet"]) == 0
    assert_same_run(Path("run"), finished.folder)


def test_a_process_killed_for_good_goes_on_to_the_same_end(finished: Finished) -> None:
    kill_and_resume([r"checkpoints/latest.ckpt"], finished)


@pytest.mark.slow
def test_a_process_killed_again_and_again_goes_on_to_the_same_end(finished: Finished) -> None:
    kill_and_resume(["config.yaml", "checkpoints/best.ckpt", "checkpoints/latest.ckpt"], finished)


def kill_and_resume(moments: Sequence[str], reference: Finished) -> None:
    """Kill -9 a process as soon as each file is there and newer than the process, then go on."""
    command = [sys.executable, str(ROOT / "scripts" / "train.py")]
    arguments = [*TINY, "--run-dir", "run", "--quiet"]
    for moment in moments:
        started = time.time()
        process = subprocess.Popen([*command, *arguments])
        while process.poll() is None and not is_newer(Path("run") / moment, started):
            time.sleep(0.001)
        process.kill()
        assert process.wait() in (-signal.SIGKILL, 0)
        arguments = ["--resume", "run", "--quiet"]
    assert main(arguments) == 0
    assert_same_run(Path("run"), reference.folder)


def is_newer(path: Path, moment: float) -> bool:
    return path.exists() and path.stat().st_mtime >= moment


def assert_same_run(folder: Path, reference: Path) -> None:
    """The same weights, best policy and evaluations, and no step recorded twice."""
    assert weights(folder) == weights(reference)
    assert weights(folder, "best") == weights(reference, "best")
    for tag in ("rollout/return_mean", "eval/return_mean", "train/loss"):
        found = [(event.step, event.value) for event in events(folder).Scalars(tag)]
        wanted = [(event.step, event.value) for event in events(reference).Scalars(tag)]
        assert found == wanted, tag


# Signals


@pytest.mark.parametrize(
    ("number", "status", "iteration"), [(signal.SIGINT, 130, 4), (signal.SIGTERM, 143, 5)]
)
def test_a_signal_stops_after_the_iteration_and_the_run_can_go_on(
    number: int,
    status: int,
    iteration: int,
    finished: Finished,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    handlers = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with monkeypatch.context() as patch:
        # After every other iteration an evaluation and a checkpoint are due, not after the fifth.
        after_iteration(patch, iteration, send(number))
        assert main([*TINY, "--run-dir", "run"]) == status
    out, err = capsys.readouterr()
    assert "--resume run" in err.splitlines()[-1]
    assert out == ""
    assert GRPO.load("run/checkpoints/latest.ckpt").iteration == iteration
    evaluated = [400] if iteration == 4 else [400, 800]
    assert steps_of(Path("run"), "eval/return_mean") == evaluated, "stopping is prompt"
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == handlers
    assert main(["--resume", "run", "--quiet"]) == 0
    assert_same_run(Path("run"), finished.folder)


def test_an_evaluation_that_was_missed_at_the_end_is_made_up_for_once(
    finished: Finished, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        after_iteration(patch, 8, send(signal.SIGTERM))
        assert main([*TINY, "--run-dir", "run", "--quiet"]) == 143
    for _ in range(2):
        assert main(["--resume", "run", "--quiet"]) == 0
        assert_same_run(Path("run"), finished.folder)


def test_the_second_signal_stops_at_once_and_leaves_the_last_checkpoint(
    finished: Finished, monkeypatch: pytest.MonkeyPatch
) -> None:
    def twice() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        raise AssertionError("the second one must not come back")

    with monkeypatch.context() as patch:
        after_iteration(patch, 5, twice)
        assert main([*TINY, "--run-dir", "run", "--quiet"]) == 130
    assert GRPO.load("run/checkpoints/latest.ckpt").iteration == 4
    assert main(["--resume", "run", "--quiet"]) == 0
    assert_same_run(Path("run"), finished.folder)


def test_a_signal_in_an_evaluation_gives_it_up_until_the_run_goes_on(
    finished: Finished, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = GRPO.evaluate

    def interrupted(self: GRPO, *arguments: Any, **options: Any) -> Any:
        if self.num_steps == 800:
            os.kill(os.getpid(), signal.SIGTERM)
            raise AssertionError("the evaluation went on")
        return original(self, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(GRPO, "evaluate", interrupted)
        assert main([*TINY, "--run-dir", "run", "--quiet"]) == 143
    assert GRPO.load("run/checkpoints/latest.ckpt").num_steps == 800
    assert main(["--resume", "run", "--quiet"]) == 0
    assert_same_run(Path("run"), finished.folder)


def test_a_signal_in_the_closing_table_says_how_to_see_it(
    finished: Finished, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: Any) -> Any:
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr("grpo_gym.cli.tables.evaluate_baseline", interrupted)
    assert main(["--resume", str(finished.folder)]) == 130
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines()[-1].endswith(f"--resume {finished.folder}")


# Disks


def test_a_full_disk_gives_one_error_and_leaves_the_last_checkpoint(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write = checkpoint.write_atomic
    saved: list[Any] = []

    def full(path: Any, *chunks: Any) -> None:
        if len(saved) == 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        saved.append(path)
        write(path, *chunks)

    monkeypatch.setattr(checkpoint, "write_atomic", full)
    assert main([*TINY, "--run-dir", "run", "--quiet"]) == 1
    assert_one_line(capsys.readouterr().err, "No space left on device")
    assert GRPO.load("run/checkpoints/latest.ckpt").iteration == 2


def test_events_that_cannot_be_written_give_one_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("torch.utils.tensorboard.SummaryWriter.add_scalar", full)
    assert main([*TINY, "--run-dir", "run", "--quiet"]) == 1
    assert_one_line(capsys.readouterr().err, "run: cannot write events: No space left on device")


@pytest.mark.parametrize("folder", ["file", "file/run", "/proc/no/run"])
def test_a_folder_that_cannot_be_made_gives_one_error(
    folder: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("file").touch()
    assert main([*TINY, "--run-dir", folder]) == 2
    assert_one_line(capsys.readouterr().err, "--run-dir")


def test_runs_of_the_same_second_get_folders_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    class Clock(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> "Clock":
            return cls(2026, 1, 2, 3, 4, 5)

    monkeypatch.setattr(run_module, "datetime", Clock)
    folders = [Run.create(TrainSettings(), None).folder for _ in range(3)]
    assert len(set(folders)) == 3
    assert folders[0] == Path("runs/LoadBalancer-v0/grpo-seed0-20260102-030405")


# Mistakes


def assert_one_line(err: str, *parts: str) -> None:
    assert err.startswith("error: ")
    assert err.count("\n") == 1, err
    for part in parts:
        assert part in err


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        ("--learning-rate nan", "learning_rate must be a finite number, got 'nan'"),
        ("--group-size 1", "group_size must be >= 2, got"),
        ("--total-steps 0", "total_steps must be >= 1, got '0'"),
        ("--total-steps 1.5", "total_steps must be an integer, got '1.5'"),
        ("--seed", "--seed must be followed by one value, got none"),
        ("--seed 1 2", "--seed must be followed by one value, got 1 2"),
        ("--seed 1 --seed 2", "--seed is given twice"),
        ("--seed -1", "seed must be >= 0, got"),
        ("--torch-threads 100000", "torch_threads must be <= 256, got '100000'"),
        ("--lerning-rate 3", "Did you mean --learning-rate?"),
        ("--foo", "--foo is not an option of train. See --help."),
        ("train", "'train' belongs to no option"),
        ("--algo ppo", "algo must be one of 'grpo', 'online', got 'ppo'"),
        ("--scale grup", "Did you mean 'group'?"),
        ("--preset lop", "Did you mean 'loop'?"),
        ("--policy cnm", "policy must be a known name, got 'cnm'"),
        ("--hidden-sizes 64 x", "hidden_sizes[1] must be an integer"),
        ("--initial-log-std 7", "initial_log_std must lie inside log_std_bounds"),
        ("--env Nope-v0", "env must be a registered id, got 'Nope-v0'"),
        ("--env-kwargs foo=3", "'foo' is not a setting of"),
        ("--env-kwargs foo", "--env-kwargs must be followed by NAME=VALUE pairs, got 'foo'"),
        ("--env-kwargs preset=parc", "Did you mean 'park'?"),
        ("--env CartPole-v1 --env-kwargs foo=3", "CartPole-v1 cannot be made with env_kwargs"),
        ("--config none.yaml", "cannot read none.yaml"),
        ("--config typo.yaml", "typo.yaml: 'grpo.learning_rat' is not a setting"),
        ("--resume nothing", "--resume must be followed by a run's folder, got nothing"),
        ("--resume nothing --seed 3", "--resume must come without --seed"),
        ("--run-dir used", "--run-dir must be new or empty, got used"),
    ],
)
def test_a_mistake_is_told_in_one_line_before_any_work(
    arguments: str,
    parts: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(GRPO, "train_iteration", None)
    Path("typo.yaml").write_text("grpo:\n  learning_rat: 3\n")
    Path("used").mkdir()
    Path("used/file").touch()
    assert main(arguments.split()) == 2
    assert_one_line(capsys.readouterr().err, parts)
    assert sorted(map(str, Path().rglob("*"))) == ["typo.yaml", "used", "used/file"]


def test_a_mistake_has_no_traceback_and_status_2_for_the_shell() -> None:
    script = ROOT / "scripts" / "train.py"
    done = subprocess.run(
        [sys.executable, script, "--group-size", "1"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert_one_line(done.stderr, "group_size must be >= 2, got")


def test_the_grpo_gym_command_knows_its_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert grpo_gym_main(["tain"]) == 2
    assert_one_line(capsys.readouterr().err, "Did you mean 'train'?")
    assert grpo_gym_main(["--help"]) == 0
    assert "evaluate" in capsys.readouterr().out
    assert grpo_gym_main(["train", "--group-size", "1"]) == 2


class Undrawable(gym.Env[np.ndarray, np.int64]):
    """Takes a render mode and then gives anything but pictures."""

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"]}  # noqa: RUF012
    observation_space = gym.spaces.Box(-1.0, 1.0, (1,), np.float32)
    action_space = gym.spaces.Discrete(2)

    def __init__(self, render_mode: str | None = None, shows: str = "none") -> None:
        self.render_mode, self.shows = render_mode, shows

    def reset(self, **arguments: Any) -> Any:
        super().reset(seed=arguments.get("seed"))
        return np.zeros(1, np.float32), {}

    def step(self, action: Any) -> Any:
        return np.zeros(1, np.float32), float(action), True, False, {}

    def render(self) -> Any:
        if self.shows == "error":
            raise RuntimeError("no display")
        return None if self.shows == "none" else np.zeros((4, 4))


def _undrawable(**arguments: Any) -> gym.Env[Any, Any]:
    return Undrawable(**arguments)


@pytest.mark.parametrize("shows", ["none", "error", "grey"])
def test_training_goes_on_where_nothing_can_be_drawn(
    shows: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(gym.registry, "Undrawable-v0", EnvSpec("Undrawable-v0", _undrawable))
    line = ["--env", "Undrawable-v0", "--env-kwargs", f"shows={shows}", "--run-dir", "run"]
    sizes = ["--num-groups", "2", "--group-size", "2", "--evaluation-episodes", "2"]
    assert main([*line, *sizes, "--total-steps", "40", "--final-episodes", "2"]) == 0
    assert steps_of(Path("run"), "eval/return_mean")
    assert events(Path("run")).Tags()["images"] == []


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        ("epochs: 3", "epochs: 4", "epochs must be 3 in .*, got 4"),
        ("total_steps: 300", "total_steps: 900", "total_steps must be 300 in .*, got 900"),
        ("policy_kwargs: {}", "policy_kwargs: {hidden_sizes: [4]}", "hidden_sizes must be"),
        ("seed: 0", "seed: 1", "seed must be 0"),
    ],
)
def test_an_edited_run_does_not_go_on_as_if_it_were_not(
    capsys: pytest.CaptureFixture[str], old: str, new: str, named: str
) -> None:
    line = "--env CartPole-v1 --num-groups 2 --group-size 4 --total-steps 300 --epochs 3"
    line += " --final-episodes 0 --evaluations 0 --run-dir run"
    assert main(line.split()) == 0
    path = Path("run/config.yaml")
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    capsys.readouterr()
    assert main(["--resume", "run"]) == 2
    assert re.search(named, capsys.readouterr().err)
