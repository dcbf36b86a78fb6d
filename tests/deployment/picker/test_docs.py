"""docs/how_to/envoy.md says what is so: its commands, options and counters exist."""

import re
from pathlib import Path

import pytest
import yaml

pytest.importorskip("aiohttp", reason="needs the extra serve")
pytest.importorskip("envoy.service", reason="needs the extra serve")

from envoy_bench import load
from grpo_gym.cli.main import main
from picker_bench import Start

_PAGE = (Path(__file__).resolve().parents[3] / "docs" / "how_to" / "envoy.md").read_text("utf-8")


@pytest.mark.parametrize("mode", ["ext_proc", "ext_authz", "weights"])
def test_its_commands_write_a_configuration(mode: str, capsys: pytest.CaptureFixture[str]) -> None:
    backends = re.findall(r'BACKENDS="(.*)"', _PAGE)[0]
    (line,) = re.findall(r"^grpo-gym (picker .* --write-envoy-config) >", _PAGE, re.MULTILINE)
    words = line.replace("$BACKENDS", backends).replace("$MODE", mode).split()

    assert main(words) == 0

    resources = yaml.safe_load(capsys.readouterr().out)["static_resources"]
    assert resources["listeners"][0]["address"]["socket_address"]["port_value"] == 8080


def test_its_options_exist(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["picker", "--help"])
    shown = capsys.readouterr().out
    named = set(re.findall(r"`(--[a-z-]+)", _PAGE))

    assert len(named) > 8
    for option in named:
        assert option in shown, option


@pytest.mark.parametrize("mode", ["ext_proc", "ext_authz"])
def test_its_counters_exist(start: Start, mode: str) -> None:
    bench = start(mode)
    load(bench.envoy.url, 3)
    metrics = bench.envoy.get("/stats/prometheus")
    named = set(re.findall(rf"`(envoy_http_{mode}_\w+)`", _PAGE))
    prefix = f"envoy_http_{mode}_"
    row = re.findall(rf"`{prefix}failure_mode_allowed`(.*?)\)? stand still", _PAGE, re.DOTALL)[0]
    named |= {prefix + end for end in re.findall(r"`_(\w+)`", row.partition("(or")[0])}

    assert len(named) >= 2
    for counter in named:
        assert f"\n{counter}{{" in metrics or f"TYPE {counter} " in metrics, counter
