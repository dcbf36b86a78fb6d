"""Settings by the names of other libraries, and ours: for errors about unknown settings."""

from collections.abc import Iterable

_OURS: dict[str, dict[str, tuple[tuple[str, ...], str]]] = {
    "Stable-Baselines3": {
        "gamma": (("discount",), ""),
        "ent_coef": (("entropy_coefficient",), ""),
        "lr": (("learning_rate",), ""),
        "lr_schedule": (("learning_rate_schedule",), ""),
        "n_steps": (("num_groups", "group_size"), ", in whole episodes"),
        "n_envs": (("num_groups", "group_size"), ": their product"),
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
    },
    "CleanRL": {
        "env_id": (("env",), ""),
        "num_envs": (("num_groups", "group_size"), ": their product"),
        "num_steps": (("num_groups", "group_size"), ", in whole episodes"),
        "update_epochs": (("epochs",), ""),
        "anneal_lr": (("learning_rate_schedule",), ", down to final_learning_rate"),
        "clip_coef": (("clip_low", "clip_high"), ""),
        "norm_adv": (("scale",), ""),
        "clip_vloss": (("learned_baseline",), ": there is no critic"),
        "cuda": (("device",), ""),
        "exp_name": (("run_dir",), ""),
    },
    "TRL": {
        "num_generations": (("group_size",), ""),
        "max_completion_length": (("max_episode_steps",), ""),
        "num_iterations": (("epochs",), ""),
        "per_device_train_batch_size": (("minibatch_size",), ", beside num_minibatches"),
        "epsilon": (("clip_low",), ", beside clip_high"),
        "epsilon_high": (("clip_high",), ""),
        "beta": (("kl_coefficient",), ""),
        "scale_rewards": (("scale",), ""),
        "loss_type": (("loss_normalisation",), ""),
        "importance_sampling_level": (("ratio",), ""),
    },
}
"""Ours for each name, all of which must be candidates, and what else there is to say."""
_TRACKING = "a callback sends the statistics of each iteration there (how-to: Track runs)"
_ABSENT = {
    "Stable-Baselines3": {
        **dict.fromkeys(
            ("buffer_size", "learning_starts", "train_freq", "gradient_steps", "tau"),
            "GRPO learns from whole episodes of the current policy and has no replay buffer",
        ),
        "use_sde": "GRPO samples each action from the policy's own distribution",
        "tensorboard_log": "the train command writes events, and so does the callback "
        "trainers.reporting.TensorBoardReporter",
        "verbose": "learn has progress_bar=True, and the train command --quiet",
        "stats_window_size": "statistics are those of an iteration",
    },
    "CleanRL": {
        **dict.fromkeys(("track", "wandb_project_name", "wandb_entity"), _TRACKING),
        "capture_video": "grpo-gym play writes videos of a trained policy",
        "torch_deterministic": "one seed decides everything, always",
    },
    "TRL": {
        "reward_funcs": "the environment gives the reward",
        "reward_weights": "the environment gives the reward",
        "temperature": "actions are sampled from the policy as it is",
        "report_to": _TRACKING,
    },
}
"""Settings of each library that GRPO does not have, and why."""


def counterpart(name: str, candidates: Iterable[str]) -> str:
    """What takes the place of another library's setting among the candidates, or nothing.

    Args:
        name: A setting's name, or an option of a command line.
        candidates: The names that there are, written in the same way.
    """
    plain = _plain(name)
    written = {_plain(candidate): candidate for candidate in candidates}
    for library, names in _OURS.items():
        ours, remark = names.get(plain, ((), ""))
        if ours and set(ours) <= written.keys():
            here = " and ".join(written[each] for each in ours)
            return f" What {library} calls {name} is {here} here{remark}."
        if plain in _ABSENT[library] and "group_size" in written:
            return f" It is a setting of {library}: {_ABSENT[library][plain]}."
    return ""


def _plain(name: str) -> str:
    return name.lstrip("-").replace("-", "_").lower()
