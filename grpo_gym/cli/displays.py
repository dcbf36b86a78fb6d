"""Third-party environments that draw where there is no display."""

import os
import sys

_PYGAME = {
    "PYGAME_HIDE_SUPPORT_PROMPT": "1",
    "SDL_VIDEODRIVER": "dummy",
    "SDL_AUDIODRIVER": "dummy",
}


def has_display() -> bool:
    """Whether windows can be shown, as far as the environment variables say."""
    if sys.platform in ("win32", "darwin"):
        return True
    return any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY", "SDL_VIDEODRIVER"))


def draw_without_windows() -> None:
    """Let environments draw pictures without a window, and without pygame's greeting.

    What the user has set stays.
    """
    avoid_crashes()
    for name, value in _PYGAME.items():
        os.environ.setdefault(name, value)


def avoid_crashes() -> None:
    """Let MuJoCo draw by EGL if there is no display: its default would end the process."""
    if not has_display():
        os.environ.setdefault("MUJOCO_GL", "egl")
