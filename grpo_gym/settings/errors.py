"""What a user did wrong, and the nearest right thing."""

import difflib
from collections.abc import Iterable


class ConfigError(ValueError):
    """A setting, or a file of settings, that cannot be used; the message says which and why."""


def suggest(name: str, candidates: Iterable[str]) -> str:
    """Return ` Did you mean 'x'?` for the nearest candidate, or the list of all if none is near."""
    valid = list(candidates)
    return nearest(name, valid) or (f" Choose from: {', '.join(valid)}." if valid else "")


def nearest(name: str, candidates: Iterable[str]) -> str:
    """Return ` Did you mean 'x'?` for the nearest candidate, or nothing."""
    by_lower_case = {candidate.lower(): candidate for candidate in candidates}
    matches = difflib.get_close_matches(name.lower(), by_lower_case, n=1)
    return f" Did you mean {by_lower_case[matches[0]]!r}?" if matches else ""
