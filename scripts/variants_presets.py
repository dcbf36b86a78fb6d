"""A Markdown table of what each preset of GRPO sets, generated from the presets."""

from collections.abc import Mapping
from typing import Any

from grpo_gym.settings import to_mapping
from grpo_gym.trainers.comparison.wording import NOTHING, markdown_table
from grpo_gym.trainers.config import GRPOConfig
from grpo_gym.trainers.presets import PRESETS, make_config

PAPERS: dict[str, tuple[str, str | None]] = {
    "default": ("input-dependent baselines", "1807.02264"),
    "grpo": ("DeepSeekMath", "2402.03300"),
    "dr_grpo": ("Dr. GRPO", "2503.20783"),
    "rloo": ("RLOO", "2402.14740"),
    "loop": ("LOOP", "2502.01600"),
    "dapo": ("DAPO", "2503.14476"),
    "magistral": ("Magistral", "2506.10910"),
    "lite_ppo": ("Lite PPO", "2508.08221"),
    "reinforce_pp": ("REINFORCE++", "2501.03262"),
    "gspo": ("GSPO", "2507.18071"),
    "tic": ("TIC-GRPO", "2508.02833"),
    "cispo": ("MiniMax-M1", "2506.13585"),
    "gpg_time": ("GPG", "2510.03679"),
    "gr2po": ("GR2PO", "2609.19850"),
    "gigpo": ("GiGPO", "2505.10978"),
    "vine": ("TRPO, vine", "1502.05477"),
    "trust_region": ("TRPO", "1502.05477"),
    "chapter": ("GRPO Implementation Deep Dive", None),
}
"""Name of each preset's paper, and its arXiv number if it has one."""

_SHOWN = {
    *("returns", "discount", "baseline", "center", "scale"),
    *("objective", "ratio", "clip_low", "clip_high", "dual_clip", "max_kl"),
    *("loss_normalisation", "loss_constant", "kl_coefficient", "kl_estimator", "kl_reference"),
}
"""Settings with a column of their own; the others share one."""


def presets_table() -> str:
    """One row per preset, from its resolved settings."""
    names = ["preset", "advantage", "ratio and clip", "loss over", "KL", "other", "paper"]
    rows = [
        [f"`{name}`", *_describe(make_config(name), changes), _citation(name)]
        for name, changes in PRESETS.items()
    ]
    return markdown_table(names, rows)


def _describe(config: GRPOConfig, changes: Mapping[str, Any]) -> list[str]:
    """The cells of a preset: advantage, ratio and clip, loss, KL, and the rest; changes in bold."""
    values, defaults = to_mapping(config), to_mapping(GRPOConfig())

    def part(name: str, template: str = "{}") -> str:
        shown = template.format(values[name]).replace("_", " ")
        return f"**{shown}**" if name in changes else shown

    advantage = [
        part("returns"),
        part("discount", "undiscounted" if config.discount == 1.0 else "discount {:g}"),
        part("baseline", "baseline {}"),
        part("center", "mean of all" if config.center == "mean" else "{}"),
        part("scale", "scale {}"),
    ]
    ratio = [part("objective")]
    if config.objective != "reinforce":
        ratio.append(part("ratio", "ratio of the {}"))
    if config.objective in ("clipped", "cispo"):
        ratio.append(part("clip_low", "-{:.4g}" if config.clip_low < 1.0 else "no floor"))
    if config.objective in ("clipped", "upper_clipped", "cispo"):
        ratio.append(part("clip_high", "+{:.4g}"))
    if config.dual_clip is not None:
        ratio.append(part("dual_clip", "dual clip {:g}"))
    if config.update == "trust_region":
        ratio = [part("max_kl", "KL(old, new) at most {:g}")]
    divergence = ["none"]
    if config.kl_coefficient > 0.0:
        divergence = [part("kl_coefficient"), part("kl_estimator"), part("kl_reference")]
    other = [
        f"**{name}: {values[name]}**"
        for name in changes
        if name not in _SHOWN and values[name] != defaults[name]
    ]
    columns = [advantage, ratio, [part("loss_normalisation")], divergence, other or [NOTHING]]
    return [", ".join(column) for column in columns]


def _citation(preset: str) -> str:
    name, number = PAPERS[preset]
    return name if number is None else f"[{name}](https://arxiv.org/abs/{number})"
