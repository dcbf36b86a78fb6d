"""Where the file of a policy is. Imports no torch."""

from collections.abc import Iterable
from pathlib import Path

from grpo_gym.settings import ConfigError, suggest


def find_policy_file(policy: str, names: Iterable[str]) -> Path:
    """The file that a policy is read from.

    Args:
        policy: A file, or a run's folder: its best checkpoint, or the latest if there is no best.
        names: What else could have been meant, for the error.

    Raises:
        ConfigError: If there is no such file, or the folder has no checkpoints.
    """
    path = Path(policy)
    if path.is_dir():
        for kept in ("best.ckpt", "latest.ckpt"):
            if (path / "checkpoints" / kept).is_file():
                return path / "checkpoints" / kept
        raise ConfigError(
            f"policy must be a run's folder with a checkpoint, got {policy}: there is no "
            "checkpoints/best.ckpt or latest.ckpt in it"
        )
    if path.exists():
        return path
    raise ConfigError(
        "policy must be a name, an exported file, a checkpoint or a run's folder, got "
        f"{policy!r}.{suggest(policy, list(names))}"
    )
