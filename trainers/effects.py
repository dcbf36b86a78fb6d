"""Which settings of GRPO have an effect only beside others. Imports no torch."""

from collections.abc import Collection, Iterator
from dataclasses import fields
from typing import Any

import gymnasium as gym

from grpo_gym.policies.options import OPTIONS_OF, NetworkConfig, PolicyOptions
from grpo_gym.settings import ConfigError
from grpo_gym.settings.effects import Needs

_NEEDS: tuple[Needs, ...] = (
    Needs(
        ("branch_every", "branch_lookahead", "branch_from"),
        'grouping is "branch"',
        lambda config: config.grouping == "branch",
    ),
    Needs(
        ("final_discount",),
        "it differs from discount",
        lambda config: config.final_discount != config.discount,
    ),
    Needs(
        ("state_bin_width",),
        'baseline is "state_bin" or anchor_weight > 0',
        lambda config: config.baseline == "state_bin" or config.anchor_weight > 0.0,
    ),
    Needs(
        ("gae_lambda",),
        'baseline is "state" or "auto"',
        lambda config: config.baseline in ("state", "auto"),
    ),
    Needs(("anchor_discount",), "anchor_weight > 0", lambda config: config.anchor_weight > 0.0),
    Needs(
        ("value_learning_rate",),
        "learned_baseline is true",
        lambda config: config.learned_baseline,
    ),
    Needs(
        (
            *("clip_low", "clip_high", "learning_rate", "learning_rate_schedule"),
            *("final_learning_rate", "weight_decay", "max_grad_norm", "minibatches"),
            *("num_minibatches", "minibatch_size", "target_kl", "augment_symmetries"),
        ),
        'update is "adamw"',
        lambda config: config.update == "adamw",
    ),
    Needs(
        ("epochs",),
        'update is "adamw" or learned_baseline is true',
        lambda config: config.update == "adamw" or config.learned_baseline,
    ),
    Needs(
        ("max_kl", "damping", "conjugate_gradient_iterations", "backtracks"),
        'update is "trust_region"',
        lambda config: config.update == "trust_region",
    ),
    Needs(
        ("clip_low",),
        'objective is "clipped" or "cispo"',
        lambda config: config.objective in ("clipped", "cispo"),
    ),
    Needs(
        ("clip_high",),
        'objective is "clipped", "upper_clipped" or "cispo"',
        lambda config: config.objective in ("clipped", "upper_clipped", "cispo"),
    ),
    Needs(
        ("kl_estimator", "kl_reference", "reference_decay", "reference_every"),
        "kl_coefficient > 0",
        lambda config: config.kl_coefficient > 0.0,
    ),
    Needs(
        ("reference_decay",),
        'kl_reference is "moving_average"',
        lambda config: config.kl_reference == "moving_average",
    ),
    Needs(
        ("reference_every",),
        'kl_reference is "refreshed"',
        lambda config: config.kl_reference == "refreshed",
    ),
    Needs(
        ("final_learning_rate",),
        'learning_rate_schedule is "linear" or "cosine"',
        lambda config: config.learning_rate_schedule != "constant",
    ),
    Needs(("target_kl",), "epochs > 1", lambda config: config.epochs > 1),
)


_OF_ALL = {each.name for each in fields(PolicyOptions)}


def needs_of(policy: object) -> Iterator[Needs]:
    """What settings need in a training of a policy: its name, or a user's own network."""
    yield from _NEEDS
    name = policy.rpartition(":")[2] if isinstance(policy, str) else None
    for option in dict.fromkeys(each.name for each in fields(NetworkConfig)):
        owners = [owner for owner, cls in OPTIONS_OF.items() if option in cls.__dataclass_fields__]
        if option not in _OF_ALL and owners and name not in owners:
            condition = f"policy is {' or '.join(map(repr, owners))}"
            if option == "hidden_sizes":
                yield Needs(
                    (option,),
                    f"{condition}, or learned_baseline is true",
                    lambda config: config.learned_baseline,
                )
            else:
                yield Needs((option,), condition, lambda _: False)


def needs_of_actions(action_space: gym.Space[Any]) -> tuple[Needs, ...]:
    """What settings need in an environment with these actions."""
    if isinstance(action_space, gym.spaces.Box):
        return ()
    names = ("initial_log_std", "log_std_bounds")
    return (Needs(names, "actions are Box", lambda _: False),)


def needs_of_environment(is_separate: bool) -> tuple[Needs, ...]:
    """What settings need in an environment that is, or is not, stepped by itself."""
    if is_separate:
        return (Needs(("worker_timeout_s",), "workers > 0", lambda config: config.workers > 0),)
    names = ("workers", "worker_timeout_s")
    condition = "the environment is neither native nor a vector environment"
    return (Needs(names, condition, lambda _: False),)


def refuse_both(settings: Collection[str], policy_kwargs: Collection[str], policy: object) -> None:
    """Refuse an option of a built-in policy that is given as a setting and in policy_kwargs.

    Raises:
        ConfigError: If there is one.
    """
    if isinstance(policy, str) and policy.rpartition(":")[2] in OPTIONS_OF:
        for name in policy_kwargs:
            if name in settings:
                raise ConfigError(f"{name} must be given once, got it in policy_kwargs too")
