"""The named variants of GRPO: nothing but settings, each with its source.

What the papers leave open for control (sizes, learning rate, epochs, discount) stays as in the
default, which was chosen for small control problems.
"""

from typing import Any

from grpo_gym.settings import ConfigError, from_mapping, suggest
from grpo_gym.trainers.config import GRPOConfig


def _outcome(**settings: Any) -> dict[str, Any]:
    """One undiscounted return per trajectory against its group's mean, and further settings."""
    return {"returns": "outcome", "discount": 1.0, "baseline": "trajectory", **settings}


PRESETS: dict[str, dict[str, Any]] = {
    # Reward-to-go against the group's mean at the same time step, batch deviation.
    "default": {},
    # DeepSeekMath, arXiv 2402.03300, sections 4.1.1 and 4.2.
    "grpo": _outcome(
        scale="group",
        clip_high=0.2,
        loss_normalisation="per_sequence",
        kl_coefficient=0.04,
        kl_estimator="k3",
    ),
    # Dr. GRPO, arXiv 2503.20783, section 3.2: no deviation, no length, no KL.
    "dr_grpo": _outcome(scale="none", clip_high=0.2, loss_normalisation="constant"),
    # RLOO, arXiv 2402.14740: leave one out, REINFORCE, each sample used once.
    "rloo": _outcome(center="leave_one_out", scale="none", objective="reinforce", epochs=1),
    # LOOP, arXiv 2502.01600: leave one out, per-step clipping to [1/1.1, 1.1], 2 epochs.
    "loop": _outcome(
        center="leave_one_out",
        scale="none",
        min_advantage=0.01,
        clip_low=1.0 - 1.0 / 1.1,
        clip_high=0.1,
        epochs=2,
    ),
    # DAPO, arXiv 2503.14476, eq. 8: group deviation, equal weights for steps, clip-higher, no KL;
    # groups without variance are replaced, here in at most 3 rounds.
    "dapo": _outcome(scale="group", clip_high=0.28, refill_rounds=3),
    # Magistral, arXiv 2506.10910, section 2.1: centred, then normalised over the batch.
    "magistral": _outcome(scale="batch", clip_high=0.28, loss_normalisation="per_group"),
    # Lite PPO, arXiv 2508.08221: group mean, batch deviation, equal weights for steps.
    "lite_ppo": _outcome(scale="batch", clip_high=0.2),
    # REINFORCE++, arXiv 2501.03262: discounted reward-to-go, whitened over the batch.
    "reinforce_pp": dict(returns="reward_to_go", baseline="batch", scale="batch", clip_high=0.2),
    # GSPO, arXiv 2507.18071, section 5.1: one ratio per sequence, clipped very tightly.
    "gspo": _outcome(
        scale="group",
        ratio="sequence_mean",
        clip_low=3.0e-4,
        clip_high=4.0e-4,
        loss_normalisation="per_sequence",
    ),
    # TIC-GRPO, arXiv 2508.02833: the ratio of the whole trajectory, clipped above only; with
    # GRPO's advantage, without the paper's length correction.
    "tic": _outcome(
        scale="group",
        ratio="sequence",
        objective="upper_clipped",
        clip_high=0.2,
        loss_normalisation="per_sequence",
    ),
    # CISPO, MiniMax-M1, arXiv 2506.13585: the clipped ratio is a constant weight; no lower bound.
    "cispo": _outcome(scale="group", objective="cispo", clip_low=1.0, clip_high=0.28),
    # GPG, arXiv 2510.03679, with f(s, t) = t: the mean over members that are still alive.
    "gpg_time": dict(returns="reward_to_go", baseline="time_bin", scale="none", clip_high=0.2),
    # GR2PO, arXiv 2609.19850: discounted reward-to-go, normalised at each time step.
    "gr2po": dict(returns="reward_to_go", baseline="time_step", scale="time_step", clip_high=0.2),
    # GiGPO, arXiv 2505.10978: the episode's advantage plus that among equal states.
    "gigpo": _outcome(
        scale="group",
        anchor_weight=1.0,
        anchor_discount=0.95,
        state_bin_width=0.0,
        clip_high=0.2,
    ),
    # Groups from the middle of episodes, sharing one trace: TRPO's vine (arXiv 1502.05477, section
    # 5.2) and VinePPO (arXiv 2410.01679), but learning from every step of a branch.
    "vine": dict(grouping="branch"),
    # TRPO, arXiv 1502.05477, section 6 and appendix C, with the default's advantages.
    "trust_region": dict(update="trust_region"),
    # "GRPO Implementation Deep Dive", a book chapter on infrastructure: for policy="temporal" with
    # history=60 in AutoScaler-v0. Its groups were consecutive steps of one episode: here they are
    # 8 members at the same moment of one trace. Its KL was a sample mean and its entropy that of
    # the actions taken: here both are exact. The KL is from the policy that collected: from the
    # initial one, which is nearly uniform, 0.1 would act as ten times the entropy bonus.
    "chapter": dict(
        group_size=8,
        returns="reward_to_go",
        discount=0.99,
        baseline="time_step",
        scale="time_step",
        objective="clipped",
        clip_low=0.2,
        clip_high=0.2,
        kl_coefficient=0.1,
        kl_estimator="exact",
        kl_reference="collection",
        entropy_coefficient=0.01,
        learning_rate=3.0e-4,
        learning_rate_schedule="cosine",
        final_learning_rate=1.0e-6 / 3.0e-4,
        weight_decay=0.01,
        max_grad_norm=0.5,
        epochs=4,
        minibatches="time_steps",
        num_minibatches=1,
        minibatch_size=64,
        lstm_width=128,
        lstm_layers=2,
        attention_heads=4,
        transformer_layers=4,
        transformer_heads=8,
        feedforward_width=256,
    ),
}


def make_config(preset: str | None = None, **overrides: Any) -> GRPOConfig:
    """The settings of a preset with any of them replaced.

    Raises:
        ConfigError: If a name is unknown or a value makes no sense.
    """
    name = "default" if preset is None else preset
    if name not in PRESETS:
        raise ConfigError(f"preset must be a known name, got {name!r}.{suggest(name, PRESETS)}")
    return from_mapping(GRPOConfig, {**PRESETS[name], **overrides}, f"GRPO ({name})")
