"""Training in several processes: number 0 has the run, reports and writes; the others follow."""

import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

from grpo_gym.cli.run import Run
from grpo_gym.cli.shared_warnings import SharedWarnings
from grpo_gym.cli.signals import StopSignals
from grpo_gym.trainers.grpo import GRPO
from grpo_gym.trainers.iteration import Callback
from grpo_gym.trainers.processes.join import join
from grpo_gym.trainers.settings import TrainSettings, new_model


@dataclass(frozen=True)
class SharedRun:
    """What the others need of a run; they may be on machines where its folder is not.

    Attributes:
        settings: Of the run.
        checkpoint: Contents of the file to resume from; None at the beginning.
    """

    settings: TrainSettings
    checkpoint: bytes | None

    @classmethod
    def of(cls, run: Run) -> "SharedRun":
        """Read the run's folder."""
        begun = run.latest.is_file()
        return cls(run.settings, run.latest.read_bytes() if begun else None)

    def model(self) -> GRPO:
        """The model of the run where it left off."""
        if self.checkpoint is None:
            return new_model(self.settings)
        with tempfile.TemporaryDirectory() as folder:
            run = Run(Path(folder), self.settings)
            run.latest.parent.mkdir()
            run.latest.write_bytes(self.checkpoint)
            return run.model()


def train_to_the_end(model: GRPO, total_steps: int, callbacks: Sequence[Callback]) -> None:
    """Train a model, of a new run or of one that was resumed."""
    if model.schedule.end:
        model.resume(callback=callbacks)
    else:
        model.learn(total_steps, callback=callbacks)


def follow() -> int:
    """Do a share of the training that process 0 leads, in silence; returns the exit status.

    An error is reported by process 0, or by this one if that has gone.
    """
    number = 0
    processes = join()
    try:
        with _silence(), StopSignals(quiet=True).installed() as signals, processes.together():
            shared: SharedRun | None = processes.share(None)
            if shared is not None:
                with (
                    signals.deferred(),
                    shared.model() as model,
                    SharedWarnings(processes) as shared_warnings,
                ):
                    goes_on: Callback = lambda *_: signals.number is None  # noqa: E731
                    callbacks: list[Callback] = [shared_warnings, goes_on]
                    train_to_the_end(model, shared.settings.total_steps, callbacks)
                    number = processes.agree(signals.number or 0)
    except BaseException:  # process 0 has been told, whatever it is
        if processes.reports:
            raise
        return 1
    return 128 + number if number else 0


@contextmanager
def _silence() -> Iterator[None]:
    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
        yield
