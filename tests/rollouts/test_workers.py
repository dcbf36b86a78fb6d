"""Environments in processes: the same results as in this one, and none left behind."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import pytest

from grpo_gym.rollouts.batches import make_batch
from grpo_gym.rollouts.env_batch import EnvBatch, EnvError
from grpo_gym.rollouts.spaces import sample_batch
from grpo_gym.rollouts.workers.batch import WorkerBatch, Workers
from grpo_gym.rollouts.workers.pool import WorkersLostError
from grpo_gym.settings import ConfigError
from running import is_running, wait_until
from worker_envs import Everything, Fragile

GROUPS, MEMBERS = 4, 2
COUNT = GROUPS * MEMBERS
linux_only = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")


def batch_of(env: Any, workers: int, timeout_s: float = 60.0, **kwargs: Any) -> EnvBatch:
    return make_batch(env, kwargs, COUNT, Workers(workers, MEMBERS, timeout_s))


def processes_of(batch: EnvBatch) -> list[int]:
    assert isinstance(batch, WorkerBatch)
    return [worker.process.pid for worker in batch._pool._workers.values()]


def play(batch: EnvBatch) -> Iterator[Any]:
    """Everything that comes out in an episode, with a detour to an earlier state, and in another.

    The first group's first member and the last group's second one are the states to return to.
    """
    space = batch.single_action_space
    for seeds in (range(COUNT), range(50, 50 + COUNT)):
        observations, masks = batch.reset(list(seeds))
        yield observations, masks
        alive = np.ones(COUNT, np.bool_)
        space.seed(int(seeds[0]))
        for t in range(7):
            if t == 2:
                saved = batch.snapshot(np.array([0, COUNT - 1]))
            if t == 4:
                batch.restore(saved, np.array([[0, 1], [COUNT - 2, COUNT - 1]]))
                alive[[0, 1, COUNT - 2, COUNT - 1]] = True
                masks = None
            step = batch.step(sample_batch(space, COUNT, masks), alive)
            yield step.observations, step.rewards, step.terminated, step.truncated
            yield step.infos, step.action_masks
            alive = alive & ~step.terminated
            masks = step.action_masks


def assert_same(left: Any, right: Any) -> None:
    if isinstance(left, tuple):
        for each, other in zip(left, right, strict=True):
            assert_same(each, other)
    elif isinstance(left, dict):
        assert list(left) == list(right)
        assert_same(tuple(left.values()), tuple(right.values()))
    else:
        assert type(left) is type(right)
        np.testing.assert_array_equal(left, right, strict=left is not None)


def test_the_number_of_workers_changes_no_bit() -> None:
    expected = list(play(batch_of(Everything, 0)))
    assert any(masks is not None for _, masks in expected[2::2] if isinstance(_, dict))
    for workers in (1, 3, 9):  # more than groups: one for each
        with closing(batch_of(Everything, workers)) as batch:
            assert len(processes_of(batch)) == min(workers, GROUPS)
            for left, right in zip(expected, play(batch), strict=True):
                assert_same(left, right)


def test_a_state_is_forgotten_with_its_snapshot() -> None:
    with closing(batch_of(Everything, 1)) as batch:
        assert isinstance(batch, WorkerBatch)
        batch.reset(list(range(COUNT)))
        saved = batch.snapshot(np.array([0]))
        key = saved.states.key
        restore = ("restore", key, np.array([[0]]))
        batch._pool.ask({0: restore})
        del saved
        batch.snapshot(np.array([1]))
        with pytest.raises(RuntimeError, match=f"a worker failed: KeyError\\({key}\\)"):
            batch._pool.ask({0: restore})


# Errors


@pytest.mark.parametrize("workers", [0, 2])
def test_an_exception_is_the_same_error_as_in_this_process(workers: int, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    make = partial(Fragile, "speed", str(tmp_path / "file"), forever=True)
    with closing(batch_of(make, workers)) as batch:
        batch.reset(list(range(10, 10 + COUNT)))
        actions, alive = np.zeros(COUNT, np.int64), np.ones(COUNT, np.bool_)
        batch.step(actions, alive)
        batch.step(actions, alive)
        with pytest.raises(EnvError) as raised:
            batch.step(actions, alive)
        assert str(raised.value) == ("Fragile.step(), seed 10, step 3: raised ValueError('speed')")
        assert "worker_envs.py" in str(raised.value.__cause__) or workers == 0
        batch.reset(list(range(COUNT)))  # the workers are still there


def test_what_cannot_be_sent_is_said() -> None:
    lock = Lock()
    with pytest.raises(ConfigError, match=r"workers must be 0 with Everything.*lock.*Make what"):
        batch_of(lambda: (lock, Everything())[1], 2)


def test_an_environment_that_only_this_process_can_make() -> None:
    here = os.getpid()

    def make() -> Everything:
        if os.getpid() != here:
            raise LookupError("no licence")
        return Everything()

    with pytest.raises(RuntimeError, match=r"a worker failed: LookupError.*no licence"):
        batch_of(make, 1)
    one = Everything()
    with pytest.raises(ConfigError, match="env must make a new environment at every call"):
        batch_of(lambda: one, 1)


# Crashes


@linux_only
@pytest.mark.parametrize(
    ("fault", "cause"),
    [
        ("exit", "ended with status 3"),
        ("crash", r"was killed by SIGSEGV \(.*, line \d+, in \w+\)"),
        ("kill", r"was killed by SIGKILL \(by the system, if .*\)"),
        ("hold", r"gave no answer within 0.7 s \(.*worker_envs.py, line \d+, in fail\)"),
    ],
)
def test_lost_workers_are_named_and_replaced(fault: str, cause: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    make = partial(Fragile, fault, str(tmp_path / "file"))
    with closing(batch_of(make, 2, timeout_s=0.7)) as batch:
        first = batch.reset(list(range(COUNT)))
        before = processes_of(batch)
        actions, alive = np.zeros(COUNT, np.int64), np.ones(COUNT, np.bool_)
        alive[: COUNT // 2] = False  # so that the second worker is the one
        batch.step(actions, alive)
        batch.step(actions, alive)
        with pytest.raises(WorkersLostError, match=f"^worker 2 of 2 of Fragile {cause}$") as error:
            batch.step(actions, alive)
        assert [worker.part for worker in error.value.lost] == [range(COUNT // 2, COUNT)]
        assert not is_running(before[1])
        again = batch.reset(list(range(COUNT)))
        assert processes_of(batch)[0] == before[0] and processes_of(batch)[1] != before[1]
        assert_same(first, again)


# Ends


SCRIPT = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)  # perhaps ignored by who runs the tests
import os, sys, time
import gymnasium as gym
import numpy as np
from grpo_gym.rollouts.batches import make_batch
from grpo_gym.rollouts.workers.batch import Workers
from worker_envs import Fragile

class InScript(Fragile):
    def step(self, action):
        result = super().step(action)
        return *result[:4], {"process": os.getpid()}

gym.register("InScript-v0", InScript)
fault, file = sys.argv[1:]
batch = make_batch("InScript-v0", {"fault": fault, "file": file}, 2, Workers(2, 1, 600.0))
batch.reset([1, 2])
for _ in range(2):
    step = batch.step(np.zeros(2, np.int64), np.ones(2, np.bool_))
print(*step.infos["process"].astype(int), flush=True)
if fault:
    batch.step(np.zeros(2, np.int64), np.ones(2, np.bool_))
time.sleep(600)
"""


def script_with_workers(folder: Path, fault: str) -> tuple[subprocess.Popen[str], list[int]]:
    """A script without a main guard, with an environment and an id of its own; its workers."""
    (folder / "script.py").write_text(SCRIPT)
    (folder / "file").touch()
    paths = {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    process = subprocess.Popen(
        [sys.executable, "script.py", fault, "file" if fault else "none"],
        cwd=folder,
        env={**os.environ, **paths},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    return process, [int(number) for number in process.stdout.readline().split()]


def own_memory() -> set[str]:
    return {name for name in os.listdir("/dev/shm") if not name.startswith("envoy")}


@linux_only
@pytest.mark.parametrize("fault", ["", "hold"])
def test_workers_do_not_outlive_a_killed_parent(fault: str, tmp_path: Path) -> None:
    memory = own_memory()
    process, workers = script_with_workers(tmp_path, fault)
    assert len(workers) == 2 and all(map(is_running, workers))
    process.kill()
    process.communicate()
    assert wait_until(lambda: not any(map(is_running, workers)), 10.0)
    assert own_memory() <= memory


@linux_only
def test_ctrl_c_is_silent_in_workers(tmp_path: Path) -> None:
    process, workers = script_with_workers(tmp_path, "")
    for worker in workers:
        os.kill(worker, signal.SIGINT)
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=30.0)
    assert errors.count("Traceback") == 1 and errors.rstrip().endswith("KeyboardInterrupt")
    assert wait_until(lambda: not any(map(is_running, workers)), 10.0)


def interrupt(*_: object) -> None:
    raise KeyboardInterrupt


@linux_only
def test_an_interrupted_wait_leaves_no_late_answer() -> None:
    batch = batch_of(Everything, 2)
    with closing(batch):
        first = batch.reset(list(range(COUNT)))
        workers = processes_of(batch)
        os.kill(workers[1], signal.SIGSTOP)
        previous = signal.signal(signal.SIGALRM, interrupt)  # SIGINT is ignored in xdist's workers
        signal.setitimer(signal.ITIMER_REAL, 0.3)
        with pytest.raises(KeyboardInterrupt):
            batch.reset(list(range(COUNT)))
        signal.signal(signal.SIGALRM, previous)
        assert not any(map(is_running, workers))
        assert_same(first, batch.reset(list(range(COUNT))))
        workers = processes_of(batch)
    assert not any(map(is_running, workers))
    batch.close()
