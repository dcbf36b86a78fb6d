"""Where the processes of one machine meet."""

import os
import sys
from pathlib import Path

import pytest

from grpo_gym.trainers.processes.meeting import local_store

_LISTENS = "0A"


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_it_listens_to_no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "")  # restored afterwards
    monkeypatch.delenv("GLOO_SOCKET_IFNAME")
    store = local_store(2)
    addresses = [
        address
        for table in ("tcp", "tcp6")
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]
        for address, port in [line.split()[1].split(":")]
        if line.split()[3] == _LISTENS and int(port, 16) == store.port
    ]
    assert addresses == ["0100007F"]  # 127.0.0.1
    assert os.environ["GLOO_SOCKET_IFNAME"] == "lo"
    other = local_store(2, store.port)
    store.set("greeting", "hello")
    assert other.get("greeting") == b"hello"
