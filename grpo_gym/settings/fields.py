"""Types for the fields of settings: numbers with common ranges, and ids of environments."""

from contextlib import suppress
from os import cpu_count
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field
from pydantic_core import PydanticKnownError


def _integer(value: Any) -> Any:
    if isinstance(value, bool):
        raise PydanticKnownError("int_type")
    if isinstance(value, str):  # pydantic reads "8", but not "1e6"
        with suppress(ValueError):
            return float(value) if "e" in value.lower() else value
    return value


def _number(value: Any) -> Any:
    if isinstance(value, bool):
        raise PydanticKnownError("float_type")
    return value


def _no_flag(value: Any) -> Any:
    if isinstance(value, bool):
        raise PydanticKnownError("int_type")
    return value


NoFlag = BeforeValidator(_no_flag)
"""For a `Literal` of integers, to which 1 would equal True."""
Flag = Annotated[bool, Field(strict=True)]
"""True or false, not 1 or "yes"."""
Integer = Annotated[int, BeforeValidator(_integer), Field(ge=-(2**63), le=2**63 - 1)]
"""An integer of 64 bits. 1e6 is one, also as text; True is not."""
Natural = Annotated[Integer, Field(ge=0)]
"""An integer of at least 0."""
Count = Annotated[Integer, Field(ge=1)]
"""An integer of at least 1."""
Episodes = Annotated[Integer, Field(ge=1, le=10_000_000)]
"""Episodes to play, whose results fit into memory."""

Processes = Annotated[Integer, Field(ge=1, le=4 * (cpu_count() or 1))]
"""Processes at a time that compute: at most four for each core of this machine."""

Number = Annotated[float, BeforeValidator(_number)]
"""A finite number. Text such as "3e-4" is one; True is not."""
NonNegative = Annotated[Number, Field(ge=0)]
"""A number of at least 0."""
Positive = Annotated[Number, Field(gt=0)]
"""A number greater than 0."""
Weight = Annotated[Number, Field(ge=0, le=1e9)]
"""A number from 0 to 1e9, which torch can still square."""
PositiveWeight = Annotated[Number, Field(gt=0, le=1e9)]
"""A number from 0 to 1e9, but not 0."""
Fraction = Annotated[Number, Field(ge=0, le=1)]
"""A number from 0 to 1."""
PositiveFraction = Annotated[Number, Field(gt=0, le=1)]
"""A number from 0 to 1, but not 0."""

EnvId = Annotated[str, AfterValidator(lambda env_id: env_id.removeprefix("grpo_gym:"))]
"""Id of an environment; ours without "grpo_gym:", which would be a second name of the same."""
