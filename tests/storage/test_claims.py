"""Claims: one owner at a time, whoever it is and however it ends."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from grpo_gym.storage.claims import Claim, InUseError, claim_file, claim_folder
from grpo_gym.storage.files import write_atomic

HOLD = """
import sys, time
from grpo_gym.storage.claims import claim_file, claim_folder
claim = globals()[sys.argv[1]](sys.argv[2])
print("held", flush=True)
time.sleep(600)
"""


def holder(claim: Callable[[Path], Claim], path: Path) -> subprocess.Popen[str]:
    """A process that has a claim and keeps it."""
    command = [sys.executable, "-c", HOLD, claim.__name__, str(path)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    return process


@pytest.mark.parametrize("claim", [claim_file, claim_folder])
def test_another_process_is_refused_by_name_until_the_owner_is_killed(
    claim: Callable[[Path], Claim], tmp_path: Path
) -> None:
    process = holder(claim, tmp_path if claim is claim_folder else tmp_path / "c.json")
    path = tmp_path if claim is claim_folder else tmp_path / "c.json"
    try:
        with pytest.raises(InUseError, match=rf"{path} is in use by process {process.pid}: wait"):
            claim(path)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    with claim(path):
        pass
    assert list(tmp_path.iterdir()) == []


def test_one_of_many_at_the_same_instant(tmp_path: Path) -> None:
    """With releases in between, so that lock files vanish while others wait for them."""
    inside, most, refused = 0, 0, 0
    counting = threading.Lock()

    def work() -> None:
        nonlocal inside, most, refused
        for _ in range(20):
            try:
                with claim_file(tmp_path / "c.json"):
                    with counting:
                        inside += 1
                        most = max(most, inside)
                    with counting:
                        inside -= 1
            except InUseError:
                refused += 1

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1
    assert refused < 8 * 20
    assert list(tmp_path.iterdir()) == []


def test_this_process_may_not_claim_twice(tmp_path: Path) -> None:
    with claim_file(tmp_path / "new" / "c.json"):
        with pytest.raises(InUseError, match="in use by this process"):
            claim_file(tmp_path / "new" / "c.json")
        with claim_file(tmp_path / "new" / "d.json"):
            pass


def test_one_file_by_two_names_is_one_file(tmp_path: Path) -> None:
    (tmp_path / "link.json").symlink_to(tmp_path / "c.json")
    with claim_file(tmp_path / "link.json"):
        write_atomic(tmp_path / "link.json", b"1")
        with pytest.raises(InUseError):
            claim_file(tmp_path / "c.json")
    assert (tmp_path / "link.json").is_symlink()
    assert (tmp_path / "c.json").read_bytes() == b"1"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_fork_of_the_owner_is_no_owner(tmp_path: Path) -> None:
    claim = claim_file(tmp_path / "c.json")
    if (child := os.fork()) == 0:
        claim.release()  # must not let it go for the parent
        os._exit(int(claim.is_held))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert claim.is_held
    with pytest.raises(InUseError):
        claim_file(tmp_path / "c.json")
    claim.release()


@pytest.mark.parametrize("path", ["/dev/null", "/proc/c.json", "file/c.json", "."])
def test_what_cannot_be_written_is_no_file_to_claim(
    path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    with pytest.raises(OSError) as raised:
        claim_file(path)
    assert not isinstance(raised.value, InUseError)
    assert "lock" not in str(raised.value)
