"""A training run on disk: the files in its folder.

`runs/<env id>/<name>/` holds `config.yaml` (every setting, resolved), TensorBoard's
`events.out.tfevents.*`, `checkpoints/latest.ckpt` to resume from, and `checkpoints/best.ckpt`,
the best policy of the evaluations.
"""

from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

from grpo_gym.cli.outputs import claim_output
from grpo_gym.cli.settings import saved_settings
from grpo_gym.policies.registry import merge_policy_kwargs
from grpo_gym.settings import ConfigError, save_yaml, to_mapping
from grpo_gym.storage.claims import LOCK_NAME, claim_folder
from grpo_gym.storage.files import is_leftover
from grpo_gym.trainers.config import OF_THE_MACHINE
from grpo_gym.trainers.grpo import GRPO
from grpo_gym.trainers.schedule import Schedule
from grpo_gym.trainers.settings import TrainSettings, new_model


class Run:
    """The folder of one training run.

    Attributes:
        folder: Where it is.
        settings: Contents of `config.yaml`.
        latest: The checkpoint to resume from; it may not exist yet.
        best: The best policy so far; it may not exist yet.
    """

    def __init__(self, folder: Path, settings: TrainSettings) -> None:
        self.folder = folder
        self.settings = settings
        self.latest = folder / "checkpoints" / "latest.ckpt"
        self.best = folder / "checkpoints" / "best.ckpt"

    @classmethod
    def create(cls, settings: TrainSettings, folder: Path | None) -> "Run":
        """Make this folder, or a new one under `runs/`, never overwriting another run.

        The run has the folder for itself until the command ends. What a killed process left before
        it had written the settings counts as nothing.

        Raises:
            ConfigError: If the given folder is not empty, or cannot be written.
            InUseError: If another run has it.
        """
        try:
            if folder is None:
                folder = _new_folder(settings)
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(
                f"cannot make the run's folder {error.filename or folder}: {error.strerror}: "
                "choose another one with --run-dir"
            ) from error
        claim_output(folder, "--run-dir", claim_folder)
        if not all(path.name == LOCK_NAME or is_leftover(path) for path in folder.iterdir()):
            raise ConfigError(
                f"--run-dir must be new or empty, got {folder}: resume that run with --resume "
                f"{folder}, or choose another folder"
            )
        save_yaml(settings, folder / "config.yaml")
        return cls(folder, settings)

    @classmethod
    def open(cls, folder: Path) -> "Run":
        """Open an existing run.

        Raises:
            ConfigError: If the folder is not one of a run.
        """
        return cls(folder, saved_settings(folder))

    def claim(self) -> None:
        """Have the folder of an existing run for oneself until the command ends.

        Raises:
            ConfigError: If nothing can be written there.
            InUseError: If another process is training the run.
        """
        claim_output(self.folder, "--resume", claim_folder)

    def lengthen(self, total_steps: int) -> GRPO:
        """The model where the run left off, to go on to more steps than it began with.

        Its schedules are from now on those of a run of the new length. A process that is killed in
        here can lengthen the run again.

        Raises:
            CheckpointError: If the checkpoint cannot be used.
            ConfigError: If the settings cannot be used, or are not those that training began with.
        """
        self.settings = replace(self.settings, total_steps=total_steps)
        model = self._load()
        start = model.schedule.start
        if model.schedule.end:
            model.schedule = Schedule(start, start + total_steps)
            # As if training had been that long from the beginning, and so further between them.
            done = model.num_steps * self.settings.evaluations // total_steps
            model.notes = {**model.notes, "evaluated_stretches": done}
        self._refuse_edits(model)
        if model.schedule.end:
            model.save(self.latest)
        save_yaml(self.settings, self.folder / "config.yaml")
        return model

    def model(self) -> GRPO:
        """The model where the run left off, or a new one.

        Raises:
            CheckpointError: If the checkpoint cannot be used.
            ConfigError: If the settings cannot be used, or are not those that training began with.
        """
        model = self._load()
        self._refuse_edits(model)
        return model

    def _load(self) -> GRPO:
        settings = self.settings
        if self.latest.is_file():
            return GRPO.load(
                self.latest,
                settings.env,
                env_kwargs=settings.env_kwargs,
                policy=settings.policy,
                **{name: getattr(settings.grpo, name) for name in OF_THE_MACHINE},
            )
        return new_model(settings)

    def _refuse_edits(self, model: GRPO) -> None:
        """Refuse settings that were edited after training began, which goes on with its own."""
        settings = self.settings
        written = to_mapping(
            merge_policy_kwargs(model.policy_source, settings.grpo, settings.policy_kwargs)
        )
        written["training_env_kwargs"] = settings.training_env_kwargs
        begun: dict[str, Any] = to_mapping(model.config)
        begun["training_env_kwargs"] = to_mapping(model.training_env_kwargs)
        if model.schedule.end:
            written["total_steps"] = settings.total_steps
            begun["total_steps"] = model.schedule.end - model.schedule.start
        for name, value in begun.items():
            if written[name] != value:
                raise ConfigError(
                    f"{name} must be {value!r} in {self.folder / 'config.yaml'}, got "
                    f"{written[name]!r}: a run goes on with the settings it began with; undo the "
                    "edit, or start another run with --config"
                )

    @property
    def policy_to_show(self) -> Path:
        """The checkpoint to evaluate: the best, or the latest if there were no evaluations."""
        return self.best if self.best.is_file() else self.latest


def _new_folder(settings: TrainSettings) -> Path:
    """A folder of its own, even if many runs start in the same second."""
    stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
    parent = Path("runs") / settings.env.replace(":", "-")
    parent.mkdir(parents=True, exist_ok=True)
    attempt = 0
    while True:
        suffix = f"-{attempt}" if attempt else ""
        folder = parent / f"{settings.algo}-seed{settings.grpo.seed}-{stamp}{suffix}"
        try:
            folder.mkdir()
        except FileExistsError:
            attempt += 1
        else:
            return folder
