"""Where the file of a policy is. Imports no torch."""

import os
from pathlib import Path

from grpo_gym.settings import ConfigError


def find_policy_file(
    policy: str,
    expected: str = "a name, an exported file, a checkpoint or a run's folder",
    hint: str = "",
) -> Path:
    """The file that a policy is read from.

    Args:
        policy: A file, or a run's folder: its best checkpoint, or the latest if there is no best.
        expected: What it must be, for the error.
        hint: What else could have been meant, likewise.

    Raises:
        ConfigError: If there is no such file, or the folder has no checkpoints.
    """
    # Unlike methods of Path, these two answer False to a name that no file can have.
    if os.path.isdir(policy):
        for kept in ("best.ckpt", "latest.ckpt"):
            path = Path(policy, "checkpoints", kept)
            if path.is_file():
                return path
        raise ConfigError(
            f"policy must be a run's folder with a checkpoint, got {policy}: there is no "
            "checkpoints/best.ckpt or latest.ckpt in it"
        )
    if os.path.exists(policy):
        return Path(policy)
    is_path = os.path.dirname(policy) or os.path.splitext(policy)[1]
    missing = ", and there is no such file" if is_path else ""
    raise ConfigError(f"policy must be {expected}, got {policy!r}{missing}.{hint}")
