"""What the checkpoints of models hold, and checks that a file's content fits the model it is for.

A checksum tells that a file is whole, not that its content makes sense. Each check raises
`CheckpointError` with the file and the field.
"""

import sys
from collections.abc import Mapping
from os import PathLike, fspath
from typing import Annotated, Any, NoReturn, NotRequired, TypeVar

import gymnasium as gym
import torch
from pydantic import ConfigDict, Field
from torch import Tensor, nn
from typing_extensions import TypedDict  # pydantic needs this one before Python 3.12

from grpo_gym.settings import ConfigError, Count, Flag, Integer, NonNegative, Number, check_value
from grpo_gym.storage.checkpoint import CheckpointError
from grpo_gym.trainers.learning.adamw import AdamW

Path = str | PathLike[str]
Payload = TypeVar("Payload", bound=Mapping[str, Any])

_STRICT = ConfigDict(extra="forbid", allow_inf_nan=False)
_Counted = Annotated[Integer, Field(ge=0, le=2**53)]
_SUMS = ("normaliser.count", "normaliser.sum_of_squares", "deviation")
"""Statistics that no observation makes negative."""
_Note = int | Annotated[float, Field(allow_inf_nan=True)]


class EnvironmentPayload(TypedDict):
    """The environment of a model; arguments that a file cannot hold are None."""

    __pydantic_config__ = _STRICT  # type: ignore[misc]
    id: str | None
    kwargs: dict[str, Any] | None
    training_kwargs: dict[str, Any] | None
    observation_space: str
    action_space: str
    observation_space_sha256: NotRequired[str]
    action_space_sha256: NotRequired[str]


class OptimizerPayload(TypedDict):
    """AdamW's state by the number of the parameter; its settings follow from the model's."""

    __pydantic_config__ = _STRICT  # type: ignore[misc]
    state: dict[int, dict[str, Any]]
    param_groups: list[dict[str, Any]]


class BaselinePayload(TypedDict):
    """The learned baseline."""

    __pydantic_config__ = _STRICT  # type: ignore[misc]
    weights: dict[str, Any]
    optimizer: OptimizerPayload


class MetricsPayload(TypedDict):
    """A metrics normaliser."""

    __pydantic_config__ = _STRICT  # type: ignore[misc]
    ranges: dict[str, tuple[Number, Number]]
    enough: Count
    frozen: Flag
    statistics: dict[str, tuple[_Counted, Number, NonNegative]]


class GRPOPayload(TypedDict):
    """What `PersistentModel.save` writes; the optional ones are absent from older files."""

    __pydantic_config__ = _STRICT  # type: ignore[misc]
    config: dict[str, Any]
    policy_kind: str | None
    policy_class: NotRequired[str | None]
    policy_kwargs: NotRequired[dict[str, Any] | None]
    environment: EnvironmentPayload
    model: dict[str, Any]
    reference: dict[str, Any] | None
    optimizer: OptimizerPayload
    value_baseline: BaselinePayload | None
    iteration: _Counted
    num_steps: _Counted
    notes: dict[str, _Note]
    metrics_normaliser: NotRequired[MetricsPayload | None]
    schedule: tuple[_Counted, _Counted]
    standstill: NotRequired[tuple[_Counted, _Counted]]


class OnlinePayload(TypedDict):
    """What `OnlineGRPO.save` writes; `world` is empty for models without training."""

    __pydantic_config__ = _STRICT  # type: ignore[misc]
    config: dict[str, Any]
    env_kwargs: dict[str, Any]
    weights: list[Number]
    decisions: _Counted
    world: dict[str, bytes]


def check_payload(payload: Mapping[str, Any], kind: type[Payload], path: Path) -> Payload:
    """A payload of this kind.

    Raises:
        CheckpointError: If a field is missing, unknown or of another type.
    """
    try:
        checked: Payload = check_value("payload", payload, kind)
    except ConfigError as error:
        refuse(path, str(error), error)
    return checked


def check_registered(env_id: str, path: Path) -> None:
    """Refuse an id from a file whose module was not imported by the user: a file imports nothing.

    Raises:
        CheckpointError: If it is not registered already.
    """
    module, _, name = env_id.rpartition(":")
    if name not in gym.registry or (module and module not in sys.modules):
        refuse(
            path,
            f"payload.environment.id must be registered already, got {env_id!r}: a file imports "
            "nothing, so import the module that registers it, or pass it as env= (on the command "
            "line by --env MODULE:ID)",
        )


def load_weights(module: nn.Module, saved: Mapping[str, Any], name: str, path: Path) -> None:
    """Load weights of exactly the names, shapes and dtypes that the module has, all finite.

    Raises:
        CheckpointError: If they do not fit.
    """
    own = module.state_dict()
    if own.keys() != saved.keys():
        refuse(path, f"the weights do not fit the policy: {name} must have {sorted(own)}, got "
               f"{sorted(map(str, saved))}")  # fmt: skip
    for key, tensor in own.items():
        _check_tensor(saved[key], tensor, f"{name}[{key!r}]", path)
        if key.endswith(_SUMS) and bool((saved[key] < 0).any()):
            refuse(path, f"{name}[{key!r}] must be >= 0")
    module.load_state_dict(saved)


def load_optimizer(optimizer: AdamW, saved: OptimizerPayload, name: str, path: Path) -> None:
    """Load AdamW's averages of exactly the parameters that the optimizer has.

    Raises:
        CheckpointError: If they do not fit.
    """
    own = optimizer.state_dict()
    numbers = [group["params"] for group in own["param_groups"]]
    found = [group.get("params") for group in saved["param_groups"]]
    # Anything may be compared by its text, also tensors.
    if repr(found) != repr(numbers):
        refuse(path, f"{name}.param_groups must be of the parameters {numbers}, got {found}")
    parameters = [each for group in optimizer.param_groups for each in group["params"]]
    for number, state in saved["state"].items():
        where = f"{name}.state[{number}]"
        if not 0 <= number < len(parameters) or state.keys() != {"step", "exp_avg", "exp_avg_sq"}:
            refuse(path, f"{where} must be AdamW's state of one of {len(parameters)} parameters")
        expected = parameters[number].detach()
        _check_tensor(state["step"], torch.zeros(()), f"{where}.step", path)
        for average in ("exp_avg", "exp_avg_sq"):
            _check_tensor(state[average], expected, f"{where}.{average}", path)
        for positive in ("step", "exp_avg_sq"):
            if bool((state[positive] < 0).any()):
                refuse(path, f"{where}.{positive} must be >= 0")
    optimizer.load_state_dict({"state": saved["state"], "param_groups": own["param_groups"]})


def refuse(path: Path, reason: str, cause: BaseException | None = None) -> NoReturn:
    """Say that a file cannot be used.

    Raises:
        CheckpointError: Always.
    """
    raise CheckpointError(f"cannot load {fspath(path)}: {reason}") from cause


def _check_tensor(value: Any, expected: Any, name: str, path: Path) -> None:
    """Refuse what has another shape or dtype, or is not finite where the expected tensor is."""
    if not isinstance(expected, Tensor):  # a module's extra state
        return
    if _kind(value) != _kind(expected):
        refuse(path, f"the weights do not fit the policy: {name} must be {_kind(expected)}, got "
               f"{_kind(value)}")  # fmt: skip
    # A buffer, such as a mask of attention, may have infinities of its own.
    usable = torch.isfinite(value) | (value == expected.to(value.device))
    if not bool(usable.all()):
        refuse(path, f"{name} must be finite: use an earlier checkpoint")


def _kind(value: Any) -> str:
    is_tensor = isinstance(value, Tensor)
    return f"{value.dtype} of shape {tuple(value.shape)}" if is_tensor else type(value).__name__
