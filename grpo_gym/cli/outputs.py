"""The files that a command will write: claimed before any work, until it ends."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any

from grpo_gym.settings import ConfigError
from grpo_gym.storage.claims import InUseError, claim_file, claim_folder

_CLAIMS = ExitStack()
"""What the running command has claimed."""


@contextmanager
def released_at_the_end() -> Iterator[None]:
    """Release what is claimed inside."""
    with _CLAIMS:
        yield


def claim_output(
    path: Path, option: str, claim: Callable[[Path], AbstractContextManager[Any]] = claim_file
) -> Any:
    """Claim what an option says to write, before any work, until the command ends.

    Args:
        path: The file; its folder is made.
        option: The option that names it.
        claim: By default `claim_file`; `claim_folder`; or what opens the file and claims it itself.

    Returns:
        What `claim` gives.

    Raises:
        ConfigError: If it cannot be written; the message names the option.
        InUseError: If another command is about to write it.
    """
    try:
        return _CLAIMS.enter_context(claim(path))
    except InUseError as error:
        raise InUseError(f"{error}, or choose another {option}") from None
    except OSError as error:
        kind = "folder" if claim is claim_folder else "file"
        raise ConfigError(
            f"{option} must be a {kind} that can be written, got {path}: {error.strerror or error}"
        ) from error
