"""Damaged and hostile files: one `CheckpointError`, and nothing of them runs."""

import contextlib
import hashlib
import io
import json
import os
import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from exported_models import FOUR, VECTOR, make_model
from grpo_gym.inference import NumpyPolicy
from grpo_gym.inference.torch_archive import read_archive
from grpo_gym.storage import CheckpointError
from grpo_gym.storage.container import header_of, read_body
from grpo_gym.trainers.pretrained import router_file

pytest.importorskip("safetensors")

ROUTER = router_file({"preset": "fleets"})


def refusal(path: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        NumpyPolicy.load(path)
    message = str(caught.value)
    assert message.startswith(f"cannot load {path}: ")
    return message


def sealed(path: Path, body: bytes) -> Path:
    """A file with this body and the right checksum."""
    path.write_bytes(header_of(memoryview(body)) + body)
    return path


def archive(program: bytes, **others: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        for name, content in {"data.pkl": program, **others}.items():
            file.writestr(f"archive/{name}", content)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("exported") / "policy.safetensors"
    make_model("mlp", VECTOR, FOUR, hidden_sizes=[4]).export(path)
    return path.read_bytes()


@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_any_flipped_bit_is_refused(
    exported: bytes, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """But in the names and numbers of the card that change nothing, which no sum covers."""
    suffix, content = data.draw(
        st.sampled_from([(".ckpt", ROUTER.read_bytes()), (".safetensors", exported)])
    )
    position = data.draw(st.integers(0, len(content) - 1))
    damaged = bytearray(content)
    damaged[position] ^= 1 << data.draw(st.integers(0, 7))
    path = tmp_path_factory.mktemp("damaged") / f"policy{suffix}"
    path.write_bytes(damaged)
    in_header = position < 8 + int.from_bytes(content[:8], "little")
    if suffix == ".safetensors" and in_header:
        with contextlib.suppress(CheckpointError):
            NumpyPolicy.load(path).predict(np.zeros(12, np.float32))
        return
    refusal(path)


@pytest.mark.parametrize("suffix", [".ckpt", ".safetensors"])
@pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 0.999])
def test_truncated_files_are_refused(
    suffix: str, share: float, exported: bytes, tmp_path: Path
) -> None:
    content = exported if suffix == ".safetensors" else ROUTER.read_bytes()
    path = tmp_path / f"policy{suffix}"
    path.write_bytes(content[: int(share * len(content))])
    refusal(path)


@pytest.mark.parametrize("suffix", [".ckpt", ".safetensors"])
def test_missing_files_and_folders_are_refused(suffix: str, tmp_path: Path) -> None:
    assert "there is no such file" in refusal(tmp_path / f"policy{suffix}")
    (tmp_path / f"folder{suffix}").mkdir()
    refusal(tmp_path / f"folder{suffix}")


class Runs:
    """Runs a command when it is unpickled."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> Any:
        return os.system, (self.command,)


class Builds:
    """Has its attributes set when it is unpickled."""

    def __init__(self) -> None:
        self.attribute = 1


def tensor_program(offset: int, size: tuple[int, ...], strides: tuple[int, ...]) -> bytes:
    """A tensor of this view of a storage of four numbers."""

    class Storage:
        pass

    class Tensor:
        def __reduce__(self) -> Any:
            arguments: tuple[Any, ...] = Storage(), offset, size, strides, False, OrderedDict()
            return torch._utils._rebuild_tensor_v2, arguments

    class Pickler(pickle.Pickler):
        def persistent_id(self, value: Any) -> Any:
            storage = "storage", torch.FloatStorage, "0", "cpu", 4
            return storage if isinstance(value, Storage) else None

    buffer = io.BytesIO()
    Pickler(buffer, protocol=2).dump(Tensor())
    return archive(buffer.getvalue(), **{"data/0": np.arange(4, dtype=np.float32).tobytes()})


def test_a_tensor_is_a_view_of_its_storage() -> None:
    found = read_archive(tensor_program(1, (3,), (1,)))
    np.testing.assert_array_equal(found, np.arange(1, 4, dtype=np.float32))
    assert not found.flags.writeable


@pytest.mark.parametrize(
    ("offset", "size", "strides"),
    [
        (1, (4,), (1,)),
        (0, (2, 2), (3, 1)),
        (-1, (2,), (1,)),
        (0, (2,), (-1,)),
        (0, (10**9,), (0,)),
        (0, (10**9, 10**9, 10**9), (0, 0, 0)),
        (2**62, (2,), (1,)),
        (0, (2,), (1, 1)),
    ],
)
def test_a_tensor_outside_of_its_storage_is_refused(
    offset: int, size: tuple[int, ...], strides: tuple[int, ...], tmp_path: Path
) -> None:
    path = sealed(tmp_path / "policy.ckpt", tensor_program(offset, size, strides))
    assert "its content is not what grpo-gym writes" in refusal(path)


def test_code_in_a_file_is_not_executed(tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    program = pickle.dumps({"kind": "grpo", "payload": Runs(f"touch {marker}")}, protocol=2)
    message = refusal(sealed(tmp_path / "policy.ckpt", archive(program)))
    assert "its content is not what grpo-gym writes" in message
    assert not marker.exists()
    pickle.loads(program)  # it would have run
    assert marker.exists()


SHARED: list[Any] = []
for _ in range(40):
    SHARED = [SHARED, SHARED]


@pytest.mark.parametrize(
    "program",
    [
        pickle.dumps(Builds(), protocol=2),
        pickle.dumps({1, 2}, protocol=4),
        pickle.dumps(SHARED, protocol=2),
        b"\x80\x02(((((((",
        b"\x80\x02r\xff\xff\xff\xff.",
        b"\x80\x02\x8a\xff" + b"\xff" * 255 + b".",
        b"\x80\x02]h\x00a.",
        b"\x80\x02Nu.",
        b"\x80\x02ctorch\nload\n)R.",
        b"c__builtin__\neval\n(S'1'\ntR.",
        b"",
        b"\x80\x02}.}.",
    ],
)
def test_odd_programs_are_refused(program: bytes, tmp_path: Path) -> None:
    refusal(sealed(tmp_path / "policy.ckpt", archive(program)))


def test_containers_that_grow_when_printed_are_refused(tmp_path: Path) -> None:
    content = {"kind": "grpo", "payload": {"config": SHARED}}
    path = sealed(tmp_path / "policy.ckpt", archive(pickle.dumps(content, protocol=2)))
    assert "containers are shared" in refusal(path)


@given(program=st.binary(max_size=200))
@settings(max_examples=200, deadline=None)
def test_any_program_is_refused_or_harmless(program: bytes) -> None:
    try:
        content = read_archive(archive(b"\x80\x02" + program))
    except Exception:  # any, which the caller tells in one line
        return
    assert not isinstance(content, dict)


def test_a_compressed_archive_is_refused(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("archive/data.pkl", b"\x80\x02N." + bytes(10**7))
    refusal(sealed(tmp_path / "policy.ckpt", buffer.getvalue()))


def test_what_torch_saves_is_read_as_torch_reads_it() -> None:
    body = read_body(ROUTER)
    ours, theirs = read_archive(body), torch.load(io.BytesIO(body), weights_only=True)

    def same(left: Any, right: Any) -> bool:
        if isinstance(right, torch.Tensor):
            return left.dtype == right.numpy().dtype and bool((left == right.numpy()).all())
        if isinstance(right, dict):
            return list(left) == list(right) and all(same(left[key], right[key]) for key in left)
        if isinstance(right, (list, tuple)):
            return type(left) is type(right) and all(map(same, left, right))
        return type(left) is type(right) and left == right

    assert same(ours, theirs)


def rewritten(content: bytes, change: Any) -> bytes:
    """The file with another card, and weights that match it."""
    size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + size])
    card = json.loads(header["__metadata__"]["grpo_gym_card"])
    change(card)
    header["__metadata__"]["grpo_gym_card"] = json.dumps(card)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + content[8 + size :]


CHANGES = {
    "newer": lambda card: card.update(format_version=2),
    "no policy": lambda card: card.pop("policy"),
    "another policy": lambda card: card.update(policy="servers"),
    "no options": lambda card: card.update(options={}),
    "odd option": lambda card: card["options"].update(activation="sin"),
    "history": lambda card: card["options"].update(frame_history=2),
    "no history": lambda card: card["options"].update(frame_history=0),
    "other action": lambda card: card["action_space"].update(n=5),
    "huge space": lambda card: card["observation_space"].update(shape=[10**6, 10**6], low=0),
    "no space": lambda card: card.update(observation_space={"kind": "Graph"}),
    "other size": lambda card: card["observation_space"].update(shape=[13]),
    "other sum": lambda card: card.update(weights_sha256=hashlib.sha256().hexdigest()),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_card_that_does_not_fit_is_refused(change: Any, exported: bytes, tmp_path: Path) -> None:
    path = tmp_path / "policy.safetensors"
    path.write_bytes(rewritten(exported, lambda card: None))
    NumpyPolicy.load(path)
    path.write_bytes(rewritten(exported, change))
    refusal(path)


def test_weights_of_others_are_refused(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    path = tmp_path / "policy.safetensors"
    save_file({"weight": np.zeros(3, np.float32)}, path)
    assert "it has no card" in refusal(path)
