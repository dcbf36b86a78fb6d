"""The device that networks are on, by its name."""

import torch

from grpo_gym.settings import ConfigError


def find_device(name: str) -> torch.device:
    """The device of a name that `NetworkConfig` allows; "auto" is an accelerator if there is one.

    Raises:
        ConfigError: If there is none of this name here.
    """
    if name == "auto":
        name = next(filter(is_available, ("cuda", "mps")), "cpu")
    if not is_available(name):
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        rule = f"cuda:0 to cuda:{count - 1}, or cpu" if count else "cpu"
        raise ConfigError(
            f"device must be one that PyTorch finds here, {rule}, got {name!r}: choose that, or "
            '"auto"'
        )
    return torch.device(name)


def is_available(name: str) -> bool:
    """Whether there is a device of this name here."""
    kind, _, number = name.partition(":")
    if kind == "cuda":
        return torch.cuda.is_available() and int(number or 0) < torch.cuda.device_count()
    return kind != "mps" or torch.backends.mps.is_available()
