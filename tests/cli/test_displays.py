"""Environments that draw where there is no display."""

import os

import pytest

from grpo_gym.cli.displays import avoid_crashes, draw_without_windows


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, "egl"),
        ({"DISPLAY": ":0"}, None),
        ({"WAYLAND_DISPLAY": "wayland-0"}, None),
        ({"MUJOCO_GL": "osmesa"}, "osmesa"),
    ],
)
def test_mujoco_draws_by_egl_unless_there_is_a_display_or_another_wish(
    variables: dict[str, str], expected: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.platform", "linux")
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    for prepare in (avoid_crashes, draw_without_windows):
        prepare()
        assert os.environ.get("MUJOCO_GL") == expected
    assert os.environ["SDL_VIDEODRIVER"] == "dummy"
