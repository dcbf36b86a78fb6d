"""A training run on disk: its folder and what lies in it.

`runs/<env id>/<name>/` holds `config.yaml` (every setting, resolved), TensorBoard's
`events.out.tfevents.*`, `checkpoints/latest.ckpt` to resume from, and `checkpoints/best.ckpt`,
the best policy of the evaluations.
"""

from datetime import datetime
from pathlib import Path

from grpo_gym.settings.config import ConfigError, from_mapping, load_yaml, save_yaml
from grpo_gym.trainers.grpo import GRPO
from grpo_gym.trainers.settings import TrainSettings, new_model


class Run:
    """The folder of one training run.

    Attributes:
        folder: Where it is.
        settings: What `config.yaml` says.
        latest: The checkpoint to resume from; it may not be there yet.
        best: The best policy so far; it may not be there yet.
    """

    def __init__(self, folder: Path, settings: TrainSettings) -> None:
        """Describe a run; `create` and `open` are the ways to get one."""
        self.folder = folder
        self.settings = settings
        self.latest = folder / "checkpoints" / "latest.ckpt"
        self.best = folder / "checkpoints" / "best.ckpt"

    @classmethod
    def create(cls, settings: TrainSettings, folder: Path | None) -> "Run":
        """Make a new folder; nothing of another run is ever overwritten.

        Args:
            settings: Written to `config.yaml`.
            folder: Where; None for a new name under `runs/`.

        Raises:
            ConfigError: If the given folder holds something already, or cannot be written.
        """
        try:
            folder = _new_folder(settings) if folder is None else _empty_folder(folder)
        except OSError as error:
            raise ConfigError(
                f"cannot make the run's folder {error.filename or folder}: {error.strerror}: "
                "choose another one with --run-dir"
            ) from error
        save_yaml(settings, folder / "config.yaml")
        return cls(folder, settings)

    @classmethod
    def open(cls, folder: Path) -> "Run":
        """Find an existing run.

        Raises:
            ConfigError: If the folder is none.
        """
        path = folder / "config.yaml"
        if not path.is_file():
            raise ConfigError(
                f"--resume must be followed by a run's folder, got {folder}: there is no "
                f"{path.name} in it"
            )
        return cls(folder, from_mapping(TrainSettings, load_yaml(path), str(path)))

    def model(self) -> GRPO:
        """The model where the run left off, or a new one.

        Raises:
            CheckpointError: If the checkpoint cannot be used.
            ConfigError: If the settings cannot.
        """
        settings = self.settings
        if self.latest.is_file():
            return GRPO.load(self.latest, settings.env, env_kwargs=settings.env_kwargs)
        return new_model(settings)

    @property
    def policy_to_show(self) -> Path:
        """The checkpoint that stands for the run: the best, or the latest without evaluations."""
        return self.best if self.best.is_file() else self.latest


def _empty_folder(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        raise ConfigError(
            f"--run-dir must be new or empty, got {folder}: go on with that run by --resume "
            f"{folder}, or choose another folder"
        )
    return folder


def _new_folder(settings: TrainSettings) -> Path:
    """A folder that nobody else has, even if many runs start in the same second."""
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
