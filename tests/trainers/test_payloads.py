"""Files with a right checksum and a wrong content: one error that names file and field, no code."""

import copy
import hashlib
import io
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from grpo_gym.storage import checkpoint
from grpo_gym.storage.checkpoint import CheckpointError
from grpo_gym.trainers.grpo import GRPO
from grpo_gym.trainers.online import OnlineGRPO

BOARD: dict[str, Any] = {"board_size": (2, 3), "fleet": (2,)}
Change = Callable[[dict[str, Any]], Any]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the file of a model with a reference and a learned baseline holds."""
    common: dict[str, Any] = {"num_groups": 2, "group_size": 2, "hidden_sizes": (4,)}
    more: dict[str, Any] = {"learned_baseline": True, "kl_coefficient": 0.01}
    model = GRPO("mlp", "Battleship-v0", env_kwargs=BOARD, normalise_observations=True, **common,
                 **more)  # fmt: skip
    path = tmp_path_factory.getbasetemp() / "trained.ckpt"
    model.learn(1).save(path)
    return checkpoint.load(path, kind="grpo")


@pytest.fixture(scope="module")
def online(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    model = OnlineGRPO(env_kwargs={"episode_length": 20}).learn(30)
    path = tmp_path_factory.getbasetemp() / "online.ckpt"
    model.save(path)
    return checkpoint.load(path, kind="online")


def refusal(folder: Path, payload: dict[str, Any], change: Change, kind: str = "grpo") -> str:
    payload = copy.deepcopy(payload)
    change(payload)
    path = folder / "changed.ckpt"
    checkpoint.save(path, payload, kind=kind)
    with pytest.raises(CheckpointError) as caught:
        (GRPO if kind == "grpo" else OnlineGRPO).load(path)
    message = str(caught.value)
    assert str(path) in message
    return message


def into(*places: Any, value: Any = None) -> Change:
    """A change that puts a value at a place; one that is callable makes it from the old one."""

    def change(payload: dict[str, Any]) -> None:
        for place in places[:-1]:
            payload = payload[place]
        last = places[-1]
        payload[last] = value(payload[last]) if callable(value) else value

    return change


def without(*places: Any) -> Change:
    def change(payload: dict[str, Any]) -> None:
        for place in places[:-1]:
            payload = payload[place]
        del payload[places[-1]]

    return change


WEIGHT = "network.0.weight"
OF_GRPO: list[tuple[Change, str]] = [
    (dict.clear, "payload.config is required"),
    (without("iteration"), "payload.iteration is required"),
    (without("environment", "kwargs"), "payload.environment.kwargs is required"),
    (into("iteration", value="x"), "payload.iteration must be an integer, got 'x'"),
    (into("iteration", value=-1), "payload.iteration must be >= 0"),
    (into("num_steps", value=2.5), "payload.num_steps must be an integer"),
    (into("num_steps", value=2**200), "payload.num_steps must be <="),
    (into("schedule", value=[1]), "payload.schedule must be a list of 2 values, got [1]"),
    (into("schedule", value=[0, "x"]), "payload.schedule[1] must be an integer"),
    (into("notes", value={"a": "b"}), "payload.notes.a"),
    (into("config", value=[1]), "payload.config must be a mapping"),
    (into("config", "num_groups", value="many"), "num_groups must be an integer"),
    (into("config", "no_such", value=1), "'no_such' is not a setting"),
    (into("config", "hidden_sizes", value=[10**9]), "hidden_sizes"),
    (into("surplus", value=1), "payload.surplus"),
    (lambda payload: payload.update(payload=dict(payload)), "payload"),
    (into("environment", "id", value=7), "payload.environment.id must be a string"),
    (into("environment", "id", value="No-v0"), "id must be registered already, got 'No-v0'"),
    (into("environment", "kwargs", value={"no_such": 1}), "'no_such' is not a setting"),
    (into("environment", "kwargs", value={"num_envs": 5}), "the environment's own"),
    (into("environment", "kwargs", value={"board_size": {"a": 1}}), "board_size"),
    (into("environment", "action_space_sha256", value="0"), "trained with action space"),
    (into("environment", "action_space_sha256", value=7), "must be a string"),
    (into("policy_kind", value="helper:net"), "not registered"),
    (into("policy_kind", value="linear"), "the weights do not fit the policy"),
    (into("policy_kwargs", value={"depth": 1}), "'depth' is not an option"),
    (into("model", value={}), "the weights do not fit the policy: model must have"),
    (into("model", WEIGHT, value=1.0), "must be torch.float32 of shape (4, 30), got float"),
    (into("model", WEIGHT, value=lambda w: w[:2]), "of shape (4, 30), got torch.float32 of"),
    (into("model", WEIGHT, value=lambda w: w.double()), "got torch.float64 of shape (4, 30)"),
    (into("model", WEIGHT, value=lambda w: w.T), "got torch.float32 of shape (30, 4)"),
    (into("model", WEIGHT, value=lambda w: w * torch.nan), f"model['{WEIGHT}'] must be finite"),
    (into("model", "normaliser.mean", value=lambda m: m + torch.inf), "must be finite"),
    (into("model", "normaliser.count", value=lambda c: -c), "normaliser.count'] must be >= 0"),
    (into("reference", value=None), "reference must be there"),
    (into("reference", WEIGHT, value=lambda w: w / 0.0), "reference['network.0.weight'] must be"),
    (into("value_baseline", value=None), "value_baseline must be there"),
    (into("value_baseline", value={}), "payload.value_baseline.weights is required"),
    (into("value_baseline", "weights", "mean", value=lambda m: m + torch.nan), "must be finite"),
    (into("value_baseline", "optimizer", "param_groups", value=[]), "value_baseline.param_groups"),
    (into("optimizer", value=[]), "payload.optimizer must be a mapping"),
    (into("optimizer", "param_groups", 0, "params", value=[0]), "optimizer.param_groups must be"),
    (into("optimizer", "state", value={9: {}}), "optimizer.state[9] must be AdamW's state"),
    (into("optimizer", "state", value={"x": {}}), "payload.optimizer.state.x"),
    (without("optimizer", "state", 0, "exp_avg"), "optimizer.state[0] must be AdamW's state"),
    (into("optimizer", "state", 0, "exp_avg", value=torch.zeros(2)), "optimizer.state[0].exp_avg"),
    (into("optimizer", "state", 0, "exp_avg_sq", value=lambda a: a - 1.0), "must be >= 0"),
    (into("optimizer", "state", 0, "step", value=-1), "optimizer.state[0].step"),
    (into("metrics_normaliser", value={}), "payload.metrics_normaliser.ranges is required"),
    (
        into(
            "metrics_normaliser",
            value={"ranges": {"a": [1.0, 0.0]}, "enough": 2, "frozen": True, "statistics": {}},
        ),
        "the range of 'a'",
    ),
]
OF_ONLINE: list[tuple[Change, str]] = [
    (dict.clear, "payload.config is required"),
    (into("weights", value=[1.0, "x"]), "payload.weights[1] must be a number"),
    (into("weights", value=lambda w: [float("nan"), *w[1:]]), "payload.weights[0] must be"),
    (into("weights", value=[[1.0]]), "payload.weights[0] must be a number"),
    (into("weights", value=[]), "has 0 weights"),
    (into("decisions", value=-3), "payload.decisions must be >= 0"),
    (into("decisions", value=2**70), "payload.decisions must be <="),
    (into("env_kwargs", value=[]), "payload.env_kwargs must be a mapping"),
    (into("env_kwargs", value={"episode_length": 21}), "payload.world is not of its environment"),
    (into("world", "episodes", value=b"123"), "payload.world is not of its environment"),
    (into("world", "episodes", value=7), "payload.world.episodes"),
    (without("world", "outcomes"), "payload.world is not of its environment"),
    (into("config", "seed", value="x"), "seed must be an integer"),
]


@pytest.mark.parametrize(("change", "message"), OF_GRPO)
def test_a_wrong_content_is_named(
    tmp_path: Path, trained: dict[str, Any], change: Change, message: str
) -> None:
    assert message in refusal(tmp_path, trained, change)


@pytest.mark.parametrize(("change", "message"), OF_ONLINE)
def test_a_wrong_content_of_online_training_is_named(
    tmp_path: Path, online: dict[str, Any], change: Change, message: str
) -> None:
    assert message in refusal(tmp_path, online, change, "online")


@pytest.mark.parametrize("prefix", ["helper:", "helper.deeper:"])
def test_a_file_imports_no_module(
    tmp_path: Path, trained: dict[str, Any], monkeypatch: pytest.MonkeyPatch, prefix: str
) -> None:
    (tmp_path / "helper.py").write_text("import pathlib\npathlib.Path(__file__ + '.ran').touch()")
    monkeypatch.syspath_prepend(tmp_path)
    name = f"{prefix}Battleship-v0"
    message = refusal(tmp_path, trained, into("environment", "id", value=name))
    assert f"must be registered already, got '{name}'" in message and "--env MODULE:ID" in message
    # What the user asks for is imported, and then it may stand in a file.
    path = tmp_path / "changed.ckpt"
    if prefix == "helper:":
        assert not (tmp_path / "helper.py.ran").exists()
        assert GRPO.load(path, name, env_kwargs=BOARD).num_steps > 0
        assert (tmp_path / "helper.py.ran").exists()
        assert GRPO.load(path).env_source == name
        sys.modules.pop("helper")


def test_a_model_is_loaded_as_it_was_saved(tmp_path: Path, trained: dict[str, Any]) -> None:
    path = tmp_path / "same.ckpt"
    checkpoint.save(path, trained, kind="grpo")
    model, twin = GRPO.load(path), GRPO.load(path)
    model.save(path)
    again = GRPO.load(path)
    model.learn(20)
    for other in (again, twin):
        assert other.learn(20).weights_sha256() == model.weights_sha256()


junk = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-3, 3),
        st.sampled_from([2**63, 2**64, -(2**70), 1e308, float("nan"), float("inf")]),
        st.text(max_size=3),
        st.binary(max_size=3),
        st.sampled_from([torch.zeros(0), torch.ones(2), torch.tensor(True), torch.ones(2, 2)]),
    ),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=2), inner),
    max_leaves=4,
)


def places(value: Any, above: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Where something lies in a payload."""
    items: Any = ()
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, list):
        items = enumerate(value)
    return [place for key, item in items for place in [(*above, key), *places(item, (*above, key))]]


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_any_content_is_refused_or_works(
    tmp_path: Path, trained: dict[str, Any], data: st.DataObject
) -> None:
    payload = copy.deepcopy(trained)
    # A larger network would only take longer, and what it may cost is checked elsewhere.
    where = data.draw(st.sampled_from([p for p in places(payload) if "config" not in p]))
    change = data.draw(st.sampled_from(["replace", "remove", "nest"]))
    if change == "remove":
        without(*where)(payload)
    else:
        value = data.draw(junk)
        into(*where, value={"inside": value} if change == "nest" else value)(payload)
    path = tmp_path / "any.ckpt"
    checkpoint.save(path, payload, kind="grpo")
    try:
        model = GRPO.load(path)
    except CheckpointError as error:
        assert str(path) in str(error)
        return
    observation = np.zeros(model.observation_space.shape or (), np.float32)
    assert np.isfinite(model.probabilities(observation)).all()
    model.train_iteration()


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_any_content_of_online_training_is_refused_or_works(
    tmp_path: Path, online: dict[str, Any], data: st.DataObject
) -> None:
    payload = copy.deepcopy(online)
    where = data.draw(st.sampled_from([p for p in places(payload) if "world" not in p]))
    into(*where, value=data.draw(junk))(payload)
    path = tmp_path / "any.ckpt"
    checkpoint.save(path, payload, kind="online")
    try:
        model = OnlineGRPO.load(path)
    except CheckpointError as error:
        assert str(path) in str(error)
        return
    model.learn(5)


def seal(path: Path, body: bytes | bytearray) -> None:
    """Write a body with the header that makes it look whole."""
    sha256 = hashlib.sha256(body).hexdigest()
    path.write_bytes(f"grpo-gym-checkpoint 1 {sha256} {len(body)}\n".encode() + body)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol:UserWarning")
@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1))
def test_any_bytes_with_a_forged_checksum_are_refused_or_work(
    tmp_path: Path, trained: dict[str, Any], damage: list[tuple[float, int]]
) -> None:
    path = tmp_path / "forged.ckpt"
    checkpoint.save(path, trained, kind="grpo")
    body = bytearray(path.read_bytes().partition(b"\n")[2])
    for place, byte in damage:
        body[int(place * len(body))] = byte
    seal(path, body)
    try:
        GRPO.load(path).train_iteration()
    except CheckpointError as error:
        assert str(path) in str(error)


def test_a_compressed_archive_is_not_opened(tmp_path: Path) -> None:
    """A small file could hold any number of zeros."""
    buffer = io.BytesIO()
    torch.save({"kind": "grpo", "payload": {"a": torch.zeros(1_000_000)}}, buffer)
    small = io.BytesIO()
    with zipfile.ZipFile(buffer) as stored, zipfile.ZipFile(small, "w") as packed:
        for name in stored.namelist():
            packed.writestr(name, stored.read(name), zipfile.ZIP_DEFLATED)
    body = small.getvalue()
    assert len(body) < 100_000
    path = tmp_path / "packed.ckpt"
    seal(path, body)
    with pytest.raises(CheckpointError, match="torch cannot read its content safely"):
        GRPO.load(path)


def nested(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


def doubled(times: int) -> list[Any]:
    value: list[Any] = [1]
    for _ in range(times):
        value = [value, value]
    return value


def round_about() -> list[Any]:
    value: list[Any] = [1]
    value.append(value)
    return value


@pytest.mark.parametrize(
    "value",
    [
        nested(200),
        doubled(60),
        round_about(),
        torch.zeros(1).expand(10**9),
        torch.eye(2).to_sparse(),
    ],
    ids=["deep", "doubled", "round about", "expanded", "sparse"],
)
def test_what_no_saved_model_holds_is_refused(
    tmp_path: Path, trained: dict[str, Any], value: Any
) -> None:
    buffer = io.BytesIO()
    payload = {**trained, "notes": {"a": value}}
    torch.save({"format_version": 1, "kind": "grpo", "payload": payload}, buffer)
    body = buffer.getvalue()
    path = tmp_path / "odd.ckpt"
    seal(path, body)
    with pytest.raises(CheckpointError, match=r"not what grpo-gym writes|cannot read its content"):
        GRPO.load(path)
