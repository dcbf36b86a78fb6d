"""Pictures of episodes as a file, .gif or .mp4."""

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from PIL import Image

from grpo_gym.settings import ConfigError

_LAST_MS = 3000
"""How long a .gif shows its last picture."""


def check_recording(path: Path) -> None:
    """Refuse a file that cannot be written, before any work.

    Raises:
        ConfigError: If its format is unknown, or moviepy is missing.
    """
    if path.suffix not in (".gif", ".mp4"):
        raise ConfigError(f"--record must end in .gif or .mp4, got {path}")
    if path.suffix == ".mp4" and not find_spec("moviepy"):
        raise ConfigError(
            f'--record must end in .gif without moviepy, got {path}: pip install "grpo-gym[render]"'
        )


def write_recording(pictures: Sequence[np.ndarray], path: Path, per_second: float) -> None:
    """Write pictures, each of shape (height, width, 3), uint8."""
    if path.suffix == ".gif":
        images = [Image.fromarray(picture) for picture in pictures]
        durations = [round(1000.0 / per_second)] * (len(images) - 1) + [_LAST_MS]
        images[0].save(path, save_all=True, append_images=images[1:], duration=durations, loop=0)
        return
    from moviepy import ImageSequenceClip  # of the extra `render`

    height, width = (size - size % 2 for size in pictures[0].shape[:2])  # the codec needs pairs
    even = [picture[:height, :width] for picture in pictures]
    ImageSequenceClip(even, fps=per_second).write_videofile(str(path), logger=None)
