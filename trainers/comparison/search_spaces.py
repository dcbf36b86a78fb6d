"""What is searched for each algorithm: small tables, about as wide for all of them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from grpo_gym.settings import parse_value
from grpo_gym.trainers.comparison.settings import Contender

if TYPE_CHECKING:
    from optuna.trial import Trial


@dataclass(frozen=True)
class Choice:
    """One of some values; lists are written as text."""

    values: tuple[Any, ...]

    def suggest(self, trial: "Trial", name: str, shipped: Any) -> Any:
        """A value; the shipped one is among the choices."""
        texts = list(dict.fromkeys([*map(str, self.values), str(shipped)]))
        return self.value(trial.suggest_categorical(name, texts))

    def as_parameter(self, value: Any) -> Any:
        """A value as the study has it."""
        return str(value)

    def value(self, parameter: Any) -> Any:
        """What the study has as a value."""
        return parse_value(parameter)


@dataclass(frozen=True)
class Between:
    """A number of an interval."""

    low: float
    high: float
    log: bool = False

    def suggest(self, trial: "Trial", name: str, shipped: Any) -> Any:
        """A value; the interval is as wide as to hold the shipped one."""
        low, high = min(self.low, shipped), max(self.high, shipped)
        return trial.suggest_float(name, low, high, log=self.log and low > 0.0)

    def as_parameter(self, value: Any) -> Any:
        """A value as the study has it."""
        return float(value)

    def value(self, parameter: Any) -> Any:
        """What the study has as a value."""
        return parameter


Space = Mapping[str, Choice | Between]

_DISCOUNTS = Choice((0.9, 0.95, 0.97, 0.98, 0.99, 0.995, 0.999, 1.0))
_WIDTHS = Choice(([64, 64], [128, 128], [256, 256]))
_ACTIVATIONS = Choice(("tanh", "relu"))
_RATES = Between(1e-4, 1e-2, log=True)
_ON_POLICY: Space = {
    "num_envs": Choice((8, 16, 32, 64, 128, 256)),
    "normalise_rewards": Choice((False, True)),
    "activation": _ACTIVATIONS,
    "hidden_sizes": _WIDTHS,
    "settings.gamma": _DISCOUNTS,
    "settings.gae_lambda": Choice((0.8, 0.9, 0.95, 0.98, 1.0)),
}
_PPO: Space = {
    **_ON_POLICY,
    "learning_rate_schedule": Choice(("constant", "linear")),
    "settings.n_steps": Choice((16, 32, 64, 128, 256, 512, 1024)),
    "settings.batch_size": Choice((64, 128, 256, 512, 1024, 2048)),
    "settings.n_epochs": Choice((3, 4, 5, 10, 20)),
    "settings.learning_rate": _RATES,
    "settings.clip_range": Choice((0.1, 0.2, 0.3)),
    "settings.ent_coef": Choice((0.0, 0.0001, 0.001, 0.01)),
    "settings.vf_coef": Choice((0.25, 0.5, 1.0)),
}
SPACES: dict[str, Space] = {
    "grpo": {
        "grpo.num_groups": Choice((2, 4, 8, 16, 32)),
        "grpo.group_size": Choice((8, 16, 32, 64)),
        "grpo.discount": _DISCOUNTS,
        "grpo.learning_rate": _RATES,
        "grpo.final_learning_rate": Choice((0.0, 0.02, 0.05, 0.2, 1.0)),
        "grpo.num_minibatches": Choice((4, 8, 16, 32)),
        "grpo.epochs": Choice((1, 2, 3, 4, 6)),
        "grpo.entropy_coefficient": Choice((0.0, 0.0001, 0.001, 0.01)),
        "grpo.activation": _ACTIVATIONS,
        "grpo.hidden_sizes": _WIDTHS,
    },
    "ppo": _PPO,
    "maskable_ppo": _PPO,
    "recurrent_ppo": {**_PPO, "lstm_width": Choice((32, 64, 128, 256))},
    "a2c": {
        **_ON_POLICY,
        "learning_rate_schedule": Choice(("constant", "linear")),
        "settings.n_steps": Choice((5, 8, 16, 32, 64)),
        "settings.learning_rate": _RATES,
        "settings.ent_coef": Choice((0.0, 0.0001, 0.001, 0.01)),
        "settings.vf_coef": Choice((0.25, 0.5, 1.0)),
        "settings.use_rms_prop": Choice((True, False)),
        "settings.normalize_advantage": Choice((False, True)),
    },
    "trpo": {
        **_ON_POLICY,
        "settings.n_steps": Choice((16, 32, 64, 128, 256, 512, 1024)),
        "settings.batch_size": Choice((64, 128, 256, 512)),
        "settings.n_critic_updates": Choice((5, 10, 20)),
        "settings.learning_rate": _RATES,
        "settings.target_kl": Choice((0.003, 0.01, 0.03)),
        "settings.cg_damping": Choice((0.01, 0.1)),
    },
}
"""What is searched, by algorithm and by the place of each value in its settings."""


def search_space(contender: Contender) -> Space:
    """What is searched for an algorithm, but for what its kind of policy has no use for."""
    only_mlp = ("activation", "hidden_sizes")
    return {
        name: kind
        for name, kind in SPACES[contender.algorithm].items()
        if contender.settings.policy == "mlp" or name.rpartition(".")[2] not in only_mlp
    }
