"""Policies and networks of users: docs/reference/policies.md, docs/tutorials/own_network.md."""

import re
from pathlib import Path
from typing import Any

import pytest

from grpo_gym.policies import registry
from grpo_gym.policies.options import (
    BoardOptions,
    CNNOptions,
    CombinedOptions,
    GRUOptions,
    MLPOptions,
    PolicyOptions,
    ServersOptions,
    TemporalOptions,
)

DOCS = Path(__file__).resolve().parent.parent / "docs"
POLICIES = (DOCS / "reference" / "policies.md").read_text("utf-8")
OWN = (DOCS / "tutorials" / "own_network.md").read_text("utf-8")


def test_its_code_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(registry, "_REGISTERED", {})
    code = "\n".join(re.findall(r"```python\n(.*?)```", POLICIES + OWN, re.DOTALL))
    names: dict[str, Any] = {"__name__": "networks_page"}
    exec(compile(code, "docs/tutorials/own_network.md", "exec"), names)
    assert names["model"].policy_source == "my-net"


def test_its_table_names_every_option() -> None:
    rows = dict(re.findall(r"^\| `(\w+)` \| [^|]+ \|([^|]*)\|$", POLICIES, re.MULTILINE))
    common = set(PolicyOptions.__dataclass_fields__)
    kinds: dict[str, Any] = {
        "linear": PolicyOptions,
        "mlp": MLPOptions,
        "cnn": CNNOptions,
        "combined": CombinedOptions,
        "board": BoardOptions,
        "servers": ServersOptions,
        "gru": GRUOptions,
        "temporal": TemporalOptions,
    }
    for name, options in kinds.items():
        own = set(options.__dataclass_fields__) - common
        assert set(re.findall(r"`(\w+)`", rows[name])) == own, name
    assert common == set(
        re.findall(r"`(\w+)`", POLICIES.partition("All of them take")[2][:120])
    ) - {"GRPO"}
