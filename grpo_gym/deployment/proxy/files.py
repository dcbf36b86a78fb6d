"""Room for open files: each request takes two, a connection to the client and one to a backend."""

import sys

from grpo_gym.settings import ConfigError

_OTHERS = 128
"""Files that are not about requests: listening sockets, health checks, the admin port."""


def check_open_files(max_connections: int) -> None:
    """Let the process have as many open files as connections need.

    Raises:
        ConfigError: If the system does not allow it.
    """
    if sys.platform == "win32":
        return
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = 2 * max_connections + _OTHERS
    if hard != resource.RLIM_INFINITY and hard < needed:
        raise ConfigError(
            f"max_connections must be at most {max(0, (hard - _OTHERS) // 2)} where a process may "
            f"have {hard} open files, got {max_connections}: raise the limit (ulimit -Hn)"
        )
    if soft != resource.RLIM_INFINITY and soft < needed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
