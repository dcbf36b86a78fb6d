"""`play` as its users call it: typed shots, the adviser's game, recordings."""

import io
import sys
from pathlib import Path

import pytest
from PIL import Image

from grpo_gym import GRPO
from grpo_gym.cli.play import main
from grpo_gym.trainers.named_policies import baseline_names

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


# Any environment


@pytest.fixture
def cart() -> GRPO:
    """An untrained policy for CartPole, saved as a run."""
    model = GRPO("linear", "CartPole-v1", num_groups=2)
    model.save("run/checkpoints/best.ckpt")
    return model


def test_a_policy_is_recorded_in_its_environment(
    cart: GRPO, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("pygame", reason="needs the extra render")
    assert main(["--policy", "run", "--record", "cart.gif", "--seed", "7", "--episodes", "2"]) == 0
    evaluation = cart.evaluate(2, seed=7)
    out = capsys.readouterr().out
    for seed, length in zip((7, 8), evaluation.lengths.tolist(), strict=True):
        assert f"episode of seed {seed}: return {length} in {length} steps" in out
    frames = Image.open("cart.gif").n_frames  # type: ignore[attr-defined]
    assert frames <= evaluation.lengths.sum() + 2


def test_random_actions_in_a_video_of_any_environment(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("moviepy", reason="needs the extra render")
    pytest.importorskip("pygame", reason="needs the extra render")
    line = ["--env", "MountainCar-v0", "--record", "car.mp4", "--steps", "20"]
    assert main(line) == 0
    assert Path("car.mp4").stat().st_size > 1_000
    assert "return -20 in 20 steps, and it goes on" in capsys.readouterr().out


@pytest.mark.parametrize("env_id", ["LoadBalancer-v0", "AutoScaler-v0", "Battleship-v0"])
def test_native_environments_in_the_terminal(
    env_id: str, capsys: pytest.CaptureFixture[str]
) -> None:
    name = baseline_names(env_id)[0]
    line = ["--env", env_id, "--policy", name, "--show", "terminal", "--steps", "3"]
    assert main(line) == 0
    out = capsys.readouterr().out
    assert "episode of seed 0: return " in out
    assert "in 3 steps, and it goes on" in out
    assert len(out.splitlines()) > 10


def test_text_of_others_in_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--env", "FrozenLake-v1", "--show", "terminal", "--seed", "1"]) == 0
    assert "SFFF" in capsys.readouterr().out.replace("\x1b[41mS\x1b[0m", "S")


def test_a_window_needs_a_display(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "SDL_VIDEODRIVER"):
        monkeypatch.delenv(name, raising=False)
    assert main(["--env", "CartPole-v1", "--show", "window"]) == 2
    assert "--show window must come with a display" in capsys.readouterr().err
    assert main(["--env", "CartPole-v1"]) == 2
    err = capsys.readouterr().err
    assert "a window (--show window) or a file (--record FILE)" in err


def test_a_window_is_drawn_by_the_environment(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("pygame", reason="needs the extra render")
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    assert main(["--env", "CartPole-v1", "--steps", "3"]) == 0
    assert "return 3 in 3 steps, and it goes on" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            ["--env", "CartPole-v1", "--show", "terminal"],
            "drawn to the terminal (--show terminal): ",
        ),
        (["--env", "CartPole-v1", "--auto"], "--auto must be left out unless --env is Battleship"),
        (["--env", "CartPole-v1", "--stochastic"], "--stochastic must be left out unless"),
        (["--env", "Battleship-v0", "--episodes", "3"], "--episodes must be left out unless"),
        (["--env", "CartPole-v1", "--policy", "best"], "policy must be a baseline, a checkpoint"),
        (["--record", "a.gif", "--show", "terminal"], "--record must come without --show"),
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
    monkeypatch.setattr("grpo_gym.cli.recording.find_spec", lambda name: None)
    assert main([*MICRO, "--record", "game.mp4"]) == 2
    assert 'pip install "grpo-gym[render]"' in capsys.readouterr().err
