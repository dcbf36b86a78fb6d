"""Commands run in a folder of their own, in a terminal of 80 columns without colours."""

from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def _scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    for name in (
        *("FORCE_COLOR", "SDL_VIDEODRIVER", "SDL_AUDIODRIVER", "PYGAME_HIDE_SUPPORT_PROMPT"),
        "MUJOCO_GL",
    ):
        monkeypatch.delenv(name, raising=False)
