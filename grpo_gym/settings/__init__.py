"""Settings: checked dataclasses, YAML files, errors."""

from grpo_gym.settings.config import check_value, checked_dataclass, from_mapping, to_mapping
from grpo_gym.settings.errors import ConfigError, UnknownSettingError, nearest, suggest
from grpo_gym.settings.fields import (
    Count,
    EnvId,
    Episodes,
    Flag,
    Fraction,
    Integer,
    Natural,
    NoFlag,
    NonNegative,
    Number,
    Positive,
    PositiveFraction,
    PositiveWeight,
    Processes,
    Weight,
)
from grpo_gym.settings.yaml_files import load_yaml, parse_value, save_yaml, to_yaml

__all__ = [
    "ConfigError",
    "Count",
    "EnvId",
    "Episodes",
    "Flag",
    "Fraction",
    "Integer",
    "Natural",
    "NoFlag",
    "NonNegative",
    "Number",
    "Positive",
    "PositiveFraction",
    "PositiveWeight",
    "Processes",
    "UnknownSettingError",
    "Weight",
    "check_value",
    "checked_dataclass",
    "from_mapping",
    "load_yaml",
    "nearest",
    "parse_value",
    "save_yaml",
    "suggest",
    "to_mapping",
    "to_yaml",
]
