"""The settings of Stable-Baselines3 by its names, and ours: for errors about unknown settings."""

from collections.abc import Iterable

_OURS: dict[str, tuple[tuple[str, ...], str]] = {
    "gamma": (("discount",), ""),
    "ent_coef": (("entropy_coefficient",), ""),
    "lr": (("learning_rate",), ""),
    "lr_schedule": (("learning_rate_schedule",), ""),
    "n_steps": (("num_groups", "group_size"), ", in whole episodes"),
    "n_envs": (("num_groups", "group_size"), ": their product"),
    "num_envs": (("num_groups", "group_size"), ": their product"),
    "n_epochs": (("epochs",), ""),
    "batch_size": (("minibatch_size",), ", beside num_minibatches"),
    "clip_range": (("clip_low", "clip_high"), ""),
    "normalize_advantage": (("scale",), ""),
    "normalize_observations": (("normalise_observations",), ""),
    "norm_obs": (("normalise_observations",), ""),
    "n_stack": (("frame_history",), ""),
    "vf_coef": (("learned_baseline",), ": there is no critic"),
    "clip_range_vf": (("learned_baseline",), ": there is no critic"),
    "net_arch": (("hidden_sizes",), ""),
    "activation_fn": (("activation",), ""),
    "num_threads": (("torch_threads",), ""),
    "total_timesteps": (("total_steps",), ""),
    "timesteps": (("total_steps",), ""),
    "n_eval_episodes": (("evaluation_episodes",), ""),
    "eval_episodes": (("evaluation_episodes",), ""),
    "eval_freq": (("evaluations",), ": their number"),
    "algorithm": (("algo",), ""),
    "mlppolicy": (("mlp",), ""),
    "cnnpolicy": (("cnn",), ""),
    "multiinputpolicy": (("combined",), ""),
    "mlplstmpolicy": (("gru",), ""),
}
"""Ours for each name, all of which must be candidates, and what else there is to say."""
_ABSENT = {
    **dict.fromkeys(
        ("buffer_size", "learning_starts", "train_freq", "gradient_steps", "tau"),
        "GRPO learns from whole episodes of the current policy and has no replay buffer",
    ),
    "use_sde": "GRPO samples each action from the policy's own distribution",
    "tensorboard_log": "the train command writes events, and so does the callback "
    "trainers.reporting.TensorBoardReporter",
    "verbose": "learn has progress_bar=True, and the train command --quiet",
    "stats_window_size": "statistics are those of an iteration",
}
"""Names of settings that GRPO does not have, and why."""


def counterpart(name: str, candidates: Iterable[str]) -> str:
    """What takes the place of Stable-Baselines3's setting among the candidates, or nothing.

    Args:
        name: A setting's name, or an option of a command line.
        candidates: The names that there are, written in the same way.
    """
    plain = _plain(name)
    written = {_plain(candidate): candidate for candidate in candidates}
    ours, remark = _OURS.get(plain, ((), ""))
    if ours and set(ours) <= written.keys():
        names = " and ".join(written[each] for each in ours)
        return f" What Stable-Baselines3 calls {name} is {names} here{remark}."
    if plain in _ABSENT and "group_size" in written:
        return f" It is a setting of Stable-Baselines3: {_ABSENT[plain]}."
    return ""


def _plain(name: str) -> str:
    return name.lstrip("-").replace("-", "_").lower()
