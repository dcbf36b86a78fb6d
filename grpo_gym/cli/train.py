"""`train`: train a policy, save checkpoints, and compare it with the baselines."""

import os
from collections.abc import Sequence

from rich.console import Console

from grpo_gym.cli.failures import reported
from grpo_gym.cli.settings import parse_train
from grpo_gym.cli.signals import StopSignals

_PYGAME = {
    "PYGAME_HIDE_SUPPORT_PROMPT": "1",
    "SDL_VIDEODRIVER": "dummy",
    "SDL_AUDIODRIVER": "dummy",
}
"""Third-party environments draw without a display, and without pygame's greeting."""


@reported
def main(arguments: Sequence[str]) -> int:
    """Run the command; returns its exit status."""
    settings, options = parse_train(arguments)
    # These load torch: only now, so that help and mistakes show at once.
    from grpo_gym.cli.online import train_online
    from grpo_gym.cli.training import train_grpo

    for name, value in _PYGAME.items():
        os.environ.setdefault(name, value)
    console = Console(stderr=True, quiet=options.quiet, highlight=False, soft_wrap=True)
    train = train_online if settings.algo == "online" else train_grpo
    with StopSignals().installed() as signals:
        return train(settings, options, signals, console)
