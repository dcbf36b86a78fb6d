"""What each preset of GRPO sets, as a Markdown table: read from the presets themselves."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from grpo_gym.settings.config import to_mapping
from grpo_gym.trainers.config import GRPOConfig
from grpo_gym.trainers.presets import PRESETS, make_config

NOTHING = "–"

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
"""Of each preset: what its paper is called here, and its number on arXiv if it is there."""

_SHOWN = {
    *("returns", "discount", "baseline", "center", "scale"),
    *("objective", "ratio", "clip_low", "clip_high", "dual_clip", "max_kl"),
    *("loss_normalisation", "loss_constant", "kl_coefficient", "kl_estimator", "kl_reference"),
}
"""Settings that have a column of the table; the others share one."""


def presets_table() -> str:
    """One row for each preset, from what it is resolved to."""
    names = ["preset", "advantage", "ratio and clip", "loss over", "KL", "other", "paper"]
    rows = []
    for name, changes in PRESETS.items():
        parts = _describe(make_config(name), changes)
        rows.append([f"`{name}`", *parts, _citation(name)])
    return markdown_table(names, rows)


def markdown_table(names: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of Markdown, one line a row."""
    lines = [list(names), ["---"] * len(names), *rows]
    return "".join(
        "| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines
    )


def _describe(config: GRPOConfig, changes: Mapping[str, Any]) -> list[str]:
    """Advantage, ratio and clip, loss, KL and the rest, bold where the preset changes them."""
    values = to_mapping(config)
    defaults = to_mapping(GRPOConfig())

    def part(name: str, text: Callable[[Any], str] = str) -> str:
        shown = text(values[name]).replace("_", " ")
        return f"**{shown}**" if name in changes else shown

    advantage = [
        part("returns"),
        part("discount", lambda value: "undiscounted" if value == 1.0 else f"discount {value:g}"),
        part("baseline", lambda value: f"baseline {value}"),
        part("center", lambda value: "mean of all" if value == "mean" else value),
        part("scale", lambda value: f"scale {value}"),
    ]
    ratio = [part("objective")]
    if config.objective != "reinforce":
        ratio.append(part("ratio", lambda value: f"ratio of the {value}"))
    if config.objective in ("clipped", "cispo"):
        ratio.append(part("clip_low", lambda value: f"-{value:.4g}" if value < 1.0 else "no floor"))
    if config.objective in ("clipped", "upper_clipped", "cispo"):
        ratio.append(part("clip_high", lambda value: f"+{value:.4g}"))
    if config.dual_clip is not None:
        ratio.append(part("dual_clip", lambda value: f"dual clip {value:g}"))
    if config.update == "trust_region":
        ratio = [part("max_kl", lambda value: f"KL(old, new) at most {value:g}")]
    divergence = ["none"]
    if config.kl_coefficient > 0.0:
        divergence = [part("kl_coefficient"), part("kl_estimator"), part("kl_reference")]
    other = [
        f"**{name}: {values[name]}**"
        for name in values
        if name not in _SHOWN and values[name] != defaults[name]
    ]
    columns = [advantage, ratio, [part("loss_normalisation")], divergence, other or [NOTHING]]
    return [", ".join(column) for column in columns]


def _citation(preset: str) -> str:
    name, number_there = PAPERS[preset]
    return name if number_there is None else f"[{name}](https://arxiv.org/abs/{number_there})"
