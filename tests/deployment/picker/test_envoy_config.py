"""The configuration for Envoy: what it must contain, and what the real binary says of it."""

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml

pytest.importorskip("aiohttp", reason="needs the extra serve")

from envoy_bench import ENVOY
from grpo_gym.deployment.picker.config import EnvoyConfig, Mode, PickerConfig
from grpo_gym.deployment.picker.envoy_config import envoy_config
from grpo_gym.deployment.routing import Endpoint
from grpo_gym.settings import ConfigError

MODES = get_args(Mode)
_ENDPOINTS = [Endpoint.from_url(url) for url in ("http://127.0.0.1:9001", "http://[::1]:9002")]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_envoy_accepts_it_as_yaml(mode: Mode, host: str, tmp_path: Path) -> None:
    if ENVOY is None:
        pytest.skip("needs the extra envoy")
    weights = tmp_path / "endpoints.json"
    weights.write_text("{}")
    picker = PickerConfig(mode=mode, host=host, eds_file=weights)
    file = tmp_path / "envoy.yaml"
    config = envoy_config(picker, EnvoyConfig(listen_host=host), _ENDPOINTS)
    file.write_text(yaml.safe_dump(config, sort_keys=False))

    command = [ENVOY, "--mode", "validate", "-c", str(file), "--log-level", "warning"]
    result = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)

    assert result.returncode == 0, result.stderr
    # No warning: a field that is deprecated or works in progress would be one.
    assert result.stderr == ""
    assert result.stdout.strip().endswith("OK")


@pytest.mark.parametrize("mode", MODES)
def test_it_is_plain_data(mode: Mode) -> None:
    config = _config(mode)

    assert yaml.safe_load(yaml.safe_dump(config)) == config


@pytest.mark.parametrize("mode", ["ext_proc", "ext_authz"])
def test_a_pick_comes_from_metadata_only(mode: Mode) -> None:
    (policy,) = [each for each in _mappings(_config(mode)) if "override_host_sources" in each]

    assert [list(source) for source in policy["override_host_sources"]] == [["metadata"]]
    (fallback,) = policy["fallback_policy"]["policies"]
    assert fallback["typed_extension_config"]["name"].endswith("least_request")


@pytest.mark.parametrize("mode", MODES)
def test_it_fails_open_and_retries_elsewhere(mode: Mode) -> None:
    mappings = list(_mappings(_config(mode)))

    (retry,) = [each["retry_policy"] for each in mappings if "retry_policy" in each]
    assert retry["retry_host_predicate"][0]["name"].endswith("previous_hosts")
    pickers = [each for each in mappings if str(each.get("name", "")).startswith("picker_")]
    assert len(pickers) == (2 if mode == "ext_authz" else 1)
    for cluster in pickers:
        assert cluster["common_lb_config"] == {"healthy_panic_threshold": {"value": 0}}
        assert len(cluster["health_checks"]) == 1
        assert cluster["circuit_breakers"]["thresholds"][0]["max_requests"] >= 100_000
    (pool,) = [each for each in mappings if each.get("name") == "pool" and "type" in each]
    assert pool["common_lb_config"] == {"update_merge_window": "0s"}
    filters = [each for each in mappings if "failure_mode_allow" in each]
    assert [each["failure_mode_allow"] for each in filters] == [True] * (mode != "weights")
    (admin,) = [each["admin"] for each in mappings if "admin" in each]
    assert admin["address"]["socket_address"]["address"] == "127.0.0.1"


def test_the_picker_of_ext_proc_may_set_the_pick_and_nothing_else() -> None:
    (settings,) = [each for each in _mappings(_config("ext_proc")) if "mutation_rules" in each]

    assert settings["mutation_rules"]["disallow_all"] is True
    assert settings["metadata_options"]["receiving_namespaces"] == {"untyped": ["envoy.lb"]}
    assert settings["message_timeout"] == "0.050s"


@pytest.mark.parametrize(
    "url",
    ["http://localhost:9001", "http://example.com", "https://127.0.0.1:9001", "http://127.0.0.1/a"],
)
def test_backends_that_envoy_cannot_be_sent_to_are_refused(url: str) -> None:
    with pytest.raises(ConfigError, match="backend must be"):
        envoy_config(PickerConfig(), EnvoyConfig(), [Endpoint.from_url(url)])


@pytest.mark.parametrize(
    ("cls", "values", "message"),
    [
        (PickerConfig, {"port": 9003}, "http_port must differ from port"),
        (PickerConfig, {"port": 70_000}, "port must be <= 65535"),
        (PickerConfig, {"mode": "wasm"}, "mode must be one of"),
        (PickerConfig, {"weight_floor": 0}, "weight_floor must be > 0"),
        (PickerConfig, {"host": "localhost"}, "host must be an IP address"),
        (EnvoyConfig, {"listen_host": ""}, "listen_host must be an IP address"),
        (EnvoyConfig, {"picker_host": "picker"}, "picker_host must be an IP address"),
        (EnvoyConfig, {"listen_port": 9900}, "listen_port must differ from envoy_admin_port"),
        (EnvoyConfig, {"pick_timeout_ms": 0}, "pick_timeout_ms must be > 0"),
    ],
)
def test_settings_that_make_no_sense_are_refused(
    cls: type, values: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        cls(**values)


@pytest.mark.parametrize(
    ("host", "picker_host", "reached"),
    [
        ("127.0.0.1", None, "127.0.0.1"),
        ("0.0.0.0", None, "127.0.0.1"),
        ("::", None, "::1"),
        ("0.0.0.0", "10.0.0.5", "10.0.0.5"),
    ],
)
def test_envoy_is_told_where_the_picker_is(
    host: str, picker_host: str | None, reached: str
) -> None:
    envoy = EnvoyConfig(picker_host=picker_host)
    config = envoy_config(PickerConfig(mode="ext_authz", host=host), envoy, _ENDPOINTS)

    for cluster in config["static_resources"]["clusters"][1:]:
        (locality,) = cluster["load_assignment"]["endpoints"]
        (row,) = locality["lb_endpoints"]
        assert row["endpoint"]["address"]["socket_address"]["address"] == reached


def _config(mode: Mode) -> dict[str, Any]:
    return envoy_config(PickerConfig(mode=mode), EnvoyConfig(), _ENDPOINTS)


def _mappings(value: Any) -> Iterator[dict[str, Any]]:
    """All mappings within a configuration."""
    if isinstance(value, dict):
        yield value
        value = list(value.values())
    if isinstance(value, list):
        for each in value:
            yield from _mappings(each)
