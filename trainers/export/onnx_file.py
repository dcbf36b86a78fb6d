"""A policy as an ONNX file, compared with torch before it is written."""

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from grpo_gym.inference.card import CARD_KEY, Card, card_to_text
from grpo_gym.settings import ConfigError
from grpo_gym.trainers.export.graph import PolicyGraph

TOLERANCE = 1e-5
"""Largest difference from torch, absolute and relative to the number."""
_OPSET = 20


def onnx_bytes(graph: PolicyGraph, card: Card) -> bytes:
    """The ONNX file of a graph, with the card among its metadata.

    Raises:
        ConfigError: If a package is missing, torch cannot translate the network, or the file
            computes something else.
    """
    try:
        import onnxruntime
        import onnxscript  # noqa: F401
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"an .onnx file needs the package {error.name}: pip install 'grpo-gym[export]'"
        ) from error
    model = _translated(graph)
    entry = model.metadata_props.add()
    entry.key, entry.value = CARD_KEY, card_to_text(card)
    content: bytes = model.SerializeToString()
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    for count in (1, 5):
        _compare(graph, session, count)
    return content


def _translated(graph: PolicyGraph) -> Any:
    inputs = graph.sample_inputs(3, seed=0)
    try:
        with _silence(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program: Any = torch.onnx.export(
                graph, inputs, dynamo=True, opset_version=_OPSET, verbose=False,
                input_names=graph.input_names, output_names=graph.output_names,
                dynamic_shapes=(graph.dynamic_axes(),),
            )  # fmt: skip
    except Exception as error:  # torch may raise anything, for a user's network the more so
        reason = str(error.__cause__ or error).strip().partition("\n")[0]
        raise ConfigError(f"torch cannot translate the policy to ONNX: {reason}") from error
    return program.model_proto


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Hold back what torch prints and logs of each step of the translation."""
    loggers = [logging.getLogger(f"torch.{name}") for name in ("onnx", "export", "fx")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _compare(graph: PolicyGraph, session: Any, count: int) -> None:
    inputs = graph.sample_inputs(count, seed=count)
    with torch.inference_mode():
        wanted = graph(*inputs)
    given = {name: each.numpy() for name, each in zip(graph.input_names, inputs, strict=True)}
    found = session.run(graph.output_names, given)
    for name, ours, theirs in zip(graph.output_names, wanted, found, strict=True):
        if not np.allclose(ours.numpy(), theirs, TOLERANCE, TOLERANCE):
            raise ConfigError(
                f"the ONNX file must compute what torch does, and its {name} differ: the network "
                "has an operation that torch.onnx translates otherwise"
            )
