"""Files that commands write: one command at a time has them, and none is found out too late."""

from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path

import pytest

from grpo_gym.storage.claims import claim_file

LB = ["--env", "LoadBalancer-v0", "--env-kwargs", "episode_length=8"]
EVALUATE = [*LB, "--policy", "random", "--episodes", "2"]
COMPARE = [*LB, "--algorithms", "grpo", "--seeds", "1", "--total-steps", "64"]
TUNE = [*LB, "--algorithm", "grpo", "--trials", "1", "--total-steps", "64"]
AUTOSCALER = ["--env", "AutoScaler-v0", "--policy", "random", "--episodes", "1"]
PLAY = ["--env", "Battleship-v0", "--policy", "random"]

OUTPUTS = pytest.mark.parametrize(
    ("command", "arguments", "option", "file"),
    [
        ("evaluate", EVALUATE, "--json", "out.json"),
        ("evaluate", AUTOSCALER, "--plot", "out.png"),
        ("benchmark", [], "--json", "out.json"),
        ("play", PLAY, "--record", "out.gif"),
        ("compare", COMPARE, "--out", "out.json"),
        ("compare", COMPARE, "--report", "out/report.md"),
        ("tune", TUNE, "--study", "out.db"),
        ("tune", TUNE, "--out", "out.yaml"),
    ],
)


def run(command: str, arguments: Sequence[str], option: str, place: Path) -> int:
    for module in {"compare": ("stable_baselines3", "matplotlib"), "tune": ("optuna",)}.get(
        command, ()
    ):
        pytest.importorskip(module)
    if option == "--plot":
        pytest.importorskip("matplotlib")
    main: Callable[[Sequence[str]], int] = import_module(f"grpo_gym.cli.{command}").main
    return main([*arguments, option, str(place)])


def place_of(file: str) -> Path:
    """What the option is given: the report's folder, or the file."""
    return Path(file).parent if file.endswith(".md") else Path(file)


@OUTPUTS
def test_a_file_that_another_command_writes_is_refused(
    command: str,
    arguments: Sequence[str],
    option: str,
    file: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with claim_file(file):
        assert run(command, arguments, option, place_of(file)) == 1
    error = capsys.readouterr().err
    assert (
        f"{file} is in use by this process: wait until it ends, or choose another {option}" in error
    )
    assert [path for path in Path().rglob("*") if path.is_file()] == []


@OUTPUTS
@pytest.mark.parametrize("folder", ["/proc", "file"])
def test_a_place_that_takes_no_files_is_refused_before_any_work(
    command: str,
    arguments: Sequence[str],
    option: str,
    file: str,
    folder: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    Path("file").touch()
    assert run(command, arguments, option, folder / place_of(file)) == 2
    *_, error = capsys.readouterr().err.splitlines()
    assert error.startswith(f"error: {option} must be a file that can be written, got {folder}/")


def test_claims_end_with_the_command() -> None:
    for _ in range(2):
        assert run("evaluate", EVALUATE, "--json", Path("out.json")) == 0
    assert [path.name for path in Path().iterdir()] == ["out.json"]
