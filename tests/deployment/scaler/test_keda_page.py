"""docs/how_to/keda.md: settings are accepted, queries are the defaults, manifests fit."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from grpo_gym.cli.scaler import ScalerOptions
from grpo_gym.deployment.scaler.settings import ScalerSettings
from grpo_gym.settings import from_mapping

PAGE = Path(__file__).resolve().parents[3] / "docs" / "how_to" / "keda.md"
TEXT = PAGE.read_text(encoding="utf-8")
BLOCKS = [
    list(yaml.safe_load_all(block)) for block in re.findall(r"```yaml\n(.*?)```", TEXT, re.DOTALL)
]


@pytest.fixture(scope="module")
def manifests() -> dict[str, dict[str, Any]]:
    """The one of each kind."""
    (block,) = [block for block in BLOCKS if len(block) > 1]
    found = {each["kind"]: each for each in block}
    assert len(found) == len(block)
    return found


def test_the_settings_are_accepted() -> None:
    (values,) = [block[0] for block in BLOCKS if "deployment" in block[0]]
    read = from_mapping(ScalerSettings, values, "keda.md")
    assert read.guard.mode == "shadow"


def test_the_table_has_every_setting_with_its_default() -> None:
    table = TEXT.partition("| setting | default")[2].partition("\n\n")[0]
    named = set()
    for row in table.splitlines()[2:]:
        names, default = [cell.strip() for cell in row.split("|")[1:3]]
        fields = re.findall(r"`([a-z_]+)`", names)
        named |= set(fields)
        values = [each.strip(" `") for each in default.split(",") if each and "](" not in each]
        for name, value in zip(fields, values, strict=False):
            assert str(getattr(ScalerSettings(deployment="web"), name)) in (value, f"{value}.0")
    assert named == set(vars(ScalerSettings(deployment="web"))) - {
        "deployment", "namespace", "prometheus",
    }  # fmt: skip


def test_the_queries_are_the_defaults() -> None:
    (values,) = [block[0]["queries"] for block in BLOCKS if "queries" in block[0]]
    assert values == ScalerSettings(deployment="web").all_queries(60.0, 0.04)


def test_the_scaler_starts_with_settings_that_exist(manifests: dict[str, dict[str, Any]]) -> None:
    config = manifests["ConfigMap"]
    values = yaml.safe_load(config["data"]["scaler.yaml"])
    read = from_mapping(ScalerSettings, values, "scaler.yaml")
    pod = manifests["Deployment"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    options = dict(zip(container["args"][::2], container["args"][1::2], strict=True))
    fields = {name.removeprefix("--").replace("-", "_"): value for name, value in options.items()}
    chosen = from_mapping(ScalerOptions, fields, "args")
    assert chosen.host == chosen.admin_host == "0.0.0.0"  # a pod's loopback is its own
    ports = {each["name"]: each["containerPort"] for each in container["ports"]}
    assert ports == {"grpc": chosen.port, "admin": chosen.admin_port}
    assert container["readinessProbe"]["grpc"]["port"] == chosen.port
    assert container["livenessProbe"]["httpGet"]["port"] == chosen.admin_port

    mounts = {each["mountPath"]: each["name"] for each in container["volumeMounts"]}
    volumes = {each["name"]: each for each in pod["volumes"]}
    assert set(mounts.values()) == set(volumes)
    for path in (str(chosen.config), read.policy, str(read.state_path)):
        assert str(Path(path).parent) in mounts
    assert volumes[mounts["/config"]]["configMap"]["name"] == config["metadata"]["name"]
    claim = volumes[mounts["/state"]]["persistentVolumeClaim"]["claimName"]
    assert claim == manifests["PersistentVolumeClaim"]["metadata"]["name"]
    assert "ReadWriteOnce" in manifests["PersistentVolumeClaim"]["spec"]["accessModes"]


def test_one_process_owns_the_state(manifests: dict[str, dict[str, Any]]) -> None:
    spec = manifests["Deployment"]["spec"]
    assert (spec["replicas"], spec["strategy"]["type"]) == (1, "Recreate")
    labels = spec["template"]["metadata"]["labels"]
    assert labels == spec["selector"]["matchLabels"]
    assert labels == manifests["Service"]["spec"]["selector"]


def test_the_scaled_object_fits_the_scaler(manifests: dict[str, dict[str, Any]]) -> None:
    scaled = manifests["ScaledObject"]
    read = from_mapping(
        ScalerSettings, yaml.safe_load(manifests["ConfigMap"]["data"]["scaler.yaml"]), "scaler.yaml"
    )
    assert scaled["apiVersion"] == "keda.sh/v1alpha1"
    spec = scaled["spec"]
    assert set(spec) == {
        "scaleTargetRef", "minReplicaCount", "maxReplicaCount", "pollingInterval", "fallback",
        "advanced", "triggers",
    }  # fmt: skip
    assert spec["scaleTargetRef"]["name"] == read.deployment
    limits = {"min_replicas": spec["minReplicaCount"], "max_replicas": spec["maxReplicaCount"]}
    assert read.env_kwargs == limits

    net, policy = spec["triggers"]
    assert (net["type"], net["metricType"]) == ("cpu", "Utilization")
    assert (policy["type"], policy["metricType"]) == ("external", "AverageValue")
    assert policy["metadata"]["deployment"] == read.deployment
    for trigger in (net, policy):  # a map of text
        assert all(isinstance(value, str) for value in trigger["metadata"].values())
    host, port = policy["metadata"]["scalerAddress"].split(":")
    service = manifests["Service"]
    assert host == f"{service['metadata']['name']}.{read.namespace}.svc"
    assert int(port) == service["spec"]["ports"][0]["port"]

    fallback = spec["fallback"]
    assert fallback["behavior"] == "currentReplicasIfHigher"
    assert limits["min_replicas"] <= fallback["replicas"] <= limits["max_replicas"]
    assert spec["pollingInterval"] * fallback["failureThreshold"] == 60  # "one minute"
    behavior = spec["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]
    for direction in ("scaleUp", "scaleDown"):
        assert 0.0 <= behavior[direction]["tolerance"] < 1.0 / limits["max_replicas"]
        assert 0 <= behavior[direction]["stabilizationWindowSeconds"] <= 3_600
