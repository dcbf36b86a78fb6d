"""Settings that matter only beside others: what is set for nothing is refused, not ignored."""

from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import MISSING, dataclass, fields
from typing import Any

from grpo_gym.settings.errors import ConfigError


@dataclass(frozen=True)
class Needs:
    """Settings of a config that have an effect only under a condition.

    Attributes:
        names: Their fields.
        condition: What must hold, as it reads after "unless".
        holds: Whether it holds in a config.
    """

    names: tuple[str, ...]
    condition: str
    holds: Callable[[Any], bool]


def without_effect(
    config: Any, needs: Iterable[Needs], names: Collection[str]
) -> Iterator[tuple[str, str]]:
    """Settings that have no effect, each with the condition that does not hold.

    Only a setting that differs from its default counts: the default asks for nothing.

    Args:
        config: A config.
        needs: What its settings need.
        names: The fields that a user has set.
    """
    defaults = {each.name: _default(each) for each in fields(config)}
    for need in needs:
        for name in need.names:
            changed = name in names and getattr(config, name) != defaults[name]
            if changed and not need.holds(config):
                yield name, need.condition


def refuse_without_effect(
    config: Any,
    needs: Iterable[Needs],
    names: Collection[str],
    written: Callable[[str], str] = str,
) -> None:
    """Refuse settings that have no effect.

    Args:
        config: A config.
        needs: What its settings need.
        names: The fields that the user has set.
        written: How the user writes a field's name.

    Raises:
        ConfigError: If there is one; the message says what it needs.
    """
    for name, condition in without_effect(config, needs, names):
        raise ConfigError(
            f"{written(name)} must be left out unless {condition}, got "
            f"{getattr(config, name)!r}: it would have no effect"
        )


def _default(field: Any) -> Any:
    return field.default if field.default_factory is MISSING else field.default_factory()
