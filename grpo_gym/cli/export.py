"""`export`: write a trained policy to a file that runs without training, or without torch."""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from grpo_gym.cli.failures import reported
from grpo_gym.cli.options import CommandLine
from grpo_gym.cli.outputs import claim_output
from grpo_gym.cli.signals import StopSignals
from grpo_gym.settings import ConfigError, checked_dataclass
from grpo_gym.trainers.export import SUFFIXES
from grpo_gym.trainers.grpo import GRPO
from grpo_gym.trainers.named_policies import load_policy


@checked_dataclass
class ExportOptions:
    """The policy, and where it goes."""

    policy: str = ""
    """A checkpoint file, a run's folder, or pretrained:router."""
    to: Path | None = None
    """The file: .onnx for ONNX Runtime and others, .safetensors for NumPy (linear, mlp,
    servers)."""

    def __post_init__(self) -> None:
        if self.to is not None and self.to.suffix not in SUFFIXES:
            raise ConfigError(f"--to must end with {' or '.join(SUFFIXES)}, got {self.to}")


_LINE = CommandLine(
    "export",
    "Write a trained policy, with its normaliser and history, to a file that runs without "
    "training.\n\n"
    "For example:\n"
    "  --policy runs/CartPole-v1/grpo-seed0-... --to cart.onnx\n"
    "  --policy pretrained:router --to router.safetensors",
    {"export": ExportOptions},
)


@reported
def main(arguments: Sequence[str]) -> int:
    """Run the command; returns its exit status."""
    options: ExportOptions = _LINE.read(arguments)["export"]
    if not options.policy:
        raise ConfigError(
            "--policy must be given: a checkpoint file, a run's folder, or pretrained:router"
        )
    if options.to is None:
        raise ConfigError(f"--to must be given: a file that ends with {' or '.join(SUFFIXES)}")
    claim_output(options.to, "--to")
    with StopSignals().installed():
        model = load_policy(options.policy)
        if not isinstance(model, GRPO):
            raise ConfigError(
                f"--policy must be a network, got {options.policy}: online GRPO has a few weights, "
                "which its checkpoint holds"
            )
        model.export(options.to)
    Console(highlight=False).print(f"written: {options.to}", markup=False, soft_wrap=True)
    return 0
