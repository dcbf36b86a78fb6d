"""What `torch.save` wrote, read without torch and without pickle.

An archive holds a program for pickle's stack machine, and the numbers of tensors beside it. pickle
would import and call whatever the program names. Here the few instructions that `torch.save` writes
for plain values run on a machine of our own, which imports nothing and calls three known functions;
any other instruction or name refuses the file.
"""

import pickletools
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.lib.stride_tricks import as_strided

from grpo_gym.storage.container import leaves, open_archive

Kind = TypeVar("Kind")

_DTYPES = {
    f"torch {name}Storage": np.dtype(kind).newbyteorder("<")
    for name, kind in {
        "Bool": np.bool_,
        "Byte": np.uint8,
        "Double": np.float64,
        "Float": np.float32,
        "Half": np.float16,
        "Int": np.int32,
        "Long": np.int64,
    }.items()
}


def read_archive(body: bytes) -> Any:
    """The value of an archive, tensors as read-only arrays that share the memory of the file.

    Args:
        body: The archive, whose checksum was verified.

    Raises:
        Exception: Of any kind, if it is not what `torch.save` writes for dictionaries, lists,
            tuples, numbers, text, bytes and dense tensors. The caller says so in one message.
    """
    with open_archive(body) as archive:
        programs = [name for name in archive.namelist() if name.endswith("/data.pkl")]
        if len(programs) != 1:
            raise ValueError("an archive must have one program")
        root = programs[0].removesuffix("data.pkl")
        order = f"{root}byteorder"
        if order in archive.namelist() and archive.read(order) != b"little":
            raise ValueError("numbers must be little-endian")
        value = _run(archive.read(programs[0]), _Storages(archive, root))
    for _ in leaves(value):  # refuses shared containers, whose printed form may be endless
        pass
    return value


class _Storages:
    """The numbers of tensors, each storage read once."""

    def __init__(self, archive: zipfile.ZipFile, root: str) -> None:
        self._archive = archive
        self._root = root
        self._found: dict[str, np.ndarray] = {}

    def __call__(self, kind: str, name: str, key: str, location: str, size: int) -> np.ndarray:
        """The storage that a program names: "storage", its type, key, device and length."""
        if kind != "storage" or type(key) is not str:
            raise ValueError("a persistent value must be a storage")
        if key not in self._found:
            numbers = self._archive.read(f"{self._root}data/{key}")
            self._found[key] = np.frombuffer(numbers, _DTYPES[name])
        storage = self._found[key]
        if storage.dtype != _DTYPES[name] or len(storage) != size:
            raise ValueError("a storage must be of the type and length that it was saved with")
        return storage


def _run(program: bytes, storages: _Storages) -> Any:
    """The value that a program leaves on its stack."""
    stack: list[Any] = []
    marks: list[int] = []
    memo: dict[Any, Any] = {}

    def pop(count: int) -> tuple[Any, ...]:
        if count > len(stack):
            raise ValueError("the stack must hold what an instruction takes")
        values = tuple(stack[len(stack) - count :])
        del stack[len(stack) - count :]
        return values

    def pop_marked() -> tuple[Any, ...]:
        return pop(len(stack) - marks.pop())

    for instruction, argument, _ in pickletools.genops(program):
        match instruction.name:
            case "PROTO" | "STOP":
                pass
            case "MARK":
                marks.append(len(stack))
            case "BINPUT" | "LONG_BINPUT":
                memo[argument] = stack[-1]
            case "BINGET" | "LONG_BINGET":
                stack.append(memo[argument])
            case "NONE" | "NEWTRUE" | "NEWFALSE":
                stack.append({"NONE": None, "NEWTRUE": True, "NEWFALSE": False}[instruction.name])
            case "BININT" | "BININT1" | "BININT2" | "LONG1" | "BINFLOAT" | "BINUNICODE":
                stack.append(argument)
            case "EMPTY_TUPLE":
                stack.append(())
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                stack.append(pop(int(instruction.name[-1])))
            case "TUPLE":
                stack.append(pop_marked())
            case "EMPTY_LIST":
                stack.append([])
            case "APPEND" | "APPENDS":
                values = pop(1) if instruction.name == "APPEND" else pop_marked()
                _expect(list, stack[-1]).extend(values)
            case "EMPTY_DICT":
                stack.append({})
            case "SETITEM" | "SETITEMS":
                items = pop(2) if instruction.name == "SETITEM" else pop_marked()
                pairs = zip(items[::2], items[1::2], strict=True)
                _expect(dict, stack[-1]).update(pairs)
            case "GLOBAL":
                stack.append(_Name(str(argument)))
            case "BINPERSID":
                kind, name, *rest = _expect(tuple, *pop(1))
                stack.append(storages(kind, _expect(_Name, name).text, *rest))
            case "REDUCE":
                function, arguments = pop(2)
                known = _FUNCTIONS[_expect(_Name, function).text]
                stack.append(known(*_expect(tuple, arguments)))
            case _:
                raise ValueError(f"torch.save does not write {instruction.name} for plain values")
    (value,) = stack
    return value


@dataclass(frozen=True)
class _Name:
    """What a program would import; only what it may call or name as a type has an effect."""

    text: str


def _expect(kind: type[Kind], value: Any) -> Kind:
    if type(value) is not kind:
        raise ValueError(f"a program must have a {kind.__name__} here")
    return value


def _tensor(storage: np.ndarray, offset: int, size: Any, strides: Any, *_: Any) -> np.ndarray:
    """`torch._utils._rebuild_tensor_v2`: a view of a storage, wholly inside it."""
    numbers = (offset, *size, *strides)
    if len(size) != len(strides) or any(type(each) is not int or each < 0 for each in numbers):
        raise ValueError("a tensor must have a size and strides >= 0")
    count = int(np.prod(size, dtype=object))
    last = offset + sum((n - 1) * stride for n, stride in zip(size, strides, strict=True))
    if count > len(storage) or (count and last >= len(storage)):
        raise ValueError("a tensor must lie in its storage")
    if count == 0:
        return np.empty(size, storage.dtype)
    steps = [stride * storage.itemsize for stride in strides]
    return as_strided(storage[offset:], size, steps, writeable=False)


def _bytes(text: str, encoding: str) -> bytes:
    """`_codecs.encode`, which is how bytes are written."""
    if encoding != "latin1":
        raise ValueError("bytes must be written as latin1")
    return text.encode(encoding)


_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "_codecs encode": _bytes,
    "collections OrderedDict": dict,
    "torch._utils _rebuild_tensor_v2": _tensor,
}
