"""Rollouts as bytes, to be sent from one process to the others, and all groups in their order.

Shapes: G groups.
"""

import pickle
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from grpo_gym.rollouts.rollout import Episodes, GroupedRollout, StepTensors, concatenate

_ALIGNED = 64
"""Bytes from which every tensor begins at a multiple."""


def pack(rollout: GroupedRollout) -> Tensor:
    """A rollout as bytes, shape (N,), uint8."""
    parts = {**vars(rollout), **{f"episodes.{k}": v for k, v in vars(rollout.episodes).items()}}
    tensors = {name: part for name, part in parts.items() if isinstance(part, Tensor)}
    plain = {"infos": rollout.infos, "info_counts": rollout.info_counts}
    forms = [(name, part.dtype, tuple(part.shape)) for name, part in tensors.items()]
    header = pickle.dumps((forms, plain))
    size = len(header).to_bytes(8, "little")
    pieces = [torch.frombuffer(bytearray(size + header), dtype=torch.uint8)]
    pieces += [part.contiguous().reshape(-1).view(torch.uint8) for part in tensors.values()]
    packed = torch.empty(sum(_aligned(len(piece)) for piece in pieces), dtype=torch.uint8)
    begin = 0
    for piece in pieces:
        packed[begin : begin + len(piece)] = piece
        begin += _aligned(len(piece))
    return packed


def unpack(packed: Tensor) -> GroupedRollout:
    """The rollout that `pack` wrote; its tensors share the memory of the bytes."""
    size = int.from_bytes(packed[:8].numpy().tobytes(), "little")
    forms, plain = pickle.loads(packed[8 : 8 + size].numpy().tobytes())
    begin = _aligned(8 + size)
    tensors = {}
    for name, dtype, shape in forms:
        length = dtype.itemsize * torch.Size(shape).numel()
        tensors[name] = packed[begin : begin + length].view(dtype).reshape(shape)
        begin += _aligned(length)
    steps = {name: tensors.get(name) for name in StepTensors.__dataclass_fields__}
    episodes = {name: tensors[f"episodes.{name}"] for name in Episodes.__dataclass_fields__}
    return GroupedRollout(
        **steps,  # type: ignore[arg-type]  # only action_masks may be None
        **plain,
        episodes=Episodes(**episodes),
        branchings=tensors["branchings"],
    )


def in_order(rollouts: Sequence[GroupedRollout]) -> GroupedRollout:
    """All groups of several rollouts as one process collects them.

    The rollouts are those of neighbouring groups, in order. One process collects, with branching,
    the first segments of all groups, then the second segments of those that go on, and so forth.
    """
    joined = concatenate(rollouts)
    if not bool(joined.branchings.any()):
        return joined
    order = torch.argsort(joined.branchings, stable=True)
    changes: dict[str, Any] = {
        name: None if part is None else part[:, order]
        for name, part in vars(joined).items()
        if name in StepTensors.__dataclass_fields__
    }
    return replace(joined, **changes, branchings=joined.branchings[order])


def _aligned(length: int) -> int:
    return -(-length // _ALIGNED) * _ALIGNED
