"""`play` as its users call it: typed shots, the adviser's game, recordings."""

import io
import sys
from pathlib import Path

import pytest
from PIL import Image

from grpo_gym import GRPO
from grpo_gym.cli.play import main

MICRO = ["--env", "Battleship-v0", "--env-kwargs", "preset=microgrpo-5x5"]


def typed(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(text))


def test_a_player_shoots_takes_advice_and_stops(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    typed(monkeypatch, "2 2\n9 9\nwhere\n2,2\n\nq\n")
    assert main([*MICRO, "--policy", "exact_posterior"]) == 0
    out = capsys.readouterr().out
    assert "shots 1, hits 0, last at (2, 2): miss" in out
    assert out.count("type a row from 0 to 4 and a column from 0 to 4") == 2
    assert "you have shot there before" in out
    assert "shots 2, hits 1, last at (1, 1): hit" in out  # what Enter took
    assert "chance of a ship, %" in out
    assert " S " in out.rsplit("what is known", 1)[1], "the ships that were not found"


def test_the_end_of_the_input_ends_the_game(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    typed(monkeypatch, "")
    assert main([*MICRO]) == 0
    assert "shots 0, hits 0" in capsys.readouterr().out


def test_a_trained_policy_plays_by_itself(capsys: pytest.CaptureFixture[str]) -> None:
    model = GRPO("board", "Battleship-v0", env_kwargs={"preset": "microgrpo-5x5"}, channels=4)
    model.save("model.ckpt")
    assert main(["--policy", "model.ckpt", "--auto", "--seed", "3"]) == 0
    out = capsys.readouterr().out
    assert "next shot, %" in out
    assert "all sunk" in out


def test_a_recording_has_a_picture_a_shot() -> None:
    assert main([*MICRO, "--record", "videos/game.gif"]) == 0
    frames = Image.open("videos/game.gif").n_frames  # type: ignore[attr-defined]
    assert 10 <= frames <= 26
    assert [path.name for path in Path("videos").iterdir()] == ["game.gif"]


def test_a_video_is_written() -> None:
    pytest.importorskip("moviepy", reason="needs the extra render")
    assert main([*MICRO, "--record", "game.mp4"]) == 0
    assert Path("game.mp4").stat().st_size > 1_000


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (["--env", "CartPole-v1"], "env must be 'Battleship-v0' to be played"),
        (["--record", "game.avi"], "--record must end in .gif or .mp4"),
        (["--policy", "densty"], "policy must be a baseline, a checkpoint file or a run's folder"),
        (["--policy", "exact_posterior"], "too many boards to list"),
    ],
)
def test_a_mistake_is_told_in_one_line(
    line: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(line) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1


def test_a_video_without_moviepy_is_refused_at_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("grpo_gym.cli.play.find_spec", lambda name: None)
    assert main([*MICRO, "--record", "game.mp4"]) == 2
    assert 'pip install "grpo-gym[render]"' in capsys.readouterr().err
