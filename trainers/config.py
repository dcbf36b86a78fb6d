"""Settings of GRPO and the named variants, which are nothing but settings."""

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from grpo_gym.config import ConfigError, Range, check_fields, from_mapping, suggest

Positive = Annotated[float, Range(0.0, exclusive_minimum=True)]
NonNegative = Annotated[float, Range(0.0)]
Count = Annotated[int, Range(1)]


@dataclass(frozen=True, kw_only=True)
class GRPOConfig:
    """How GRPO collects, compares, and learns."""

    num_groups: Count = 8
    """Groups an iteration, G."""
    group_size: Annotated[int, Range(2)] = 16
    """Members of a group, K."""
    grouping: Literal["shared", "unrelated"] = "shared"
    """"shared": members start from one state and meet one outside world. "unrelated": every
    member has a seed of its own, as in arXiv 2511.03527; for comparison."""
    max_episode_steps: Count | None = None
    """Cuts training episodes short (truncation), in steps; None leaves them whole."""

    returns: Literal["outcome", "reward_to_go"] = "reward_to_go"
    """What a step is credited with: the return of its trajectory, or what came after it."""
    discount: Annotated[float, Range(0.0, 1.0, exclusive_minimum=True)] = 0.99
    """Discount factor of returns, per step."""
    baseline: Literal["trajectory", "time_step"] = "time_step"
    """One baseline a group, or one a group and time step."""
    center: Literal["mean", "leave_one_out"] = "mean"
    """Whether a member's own return is part of its baseline."""
    scale: Literal["none", "group", "batch"] = "batch"
    """Which standard deviation divides the advantages."""
    drop_uniform_groups: bool = True
    """Leave out groups whose returns are all equal, with their KL and entropy."""
    min_advantage: NonNegative = 0.0
    """Leave out steps whose advantage is smaller in size (LOOP: 0.01)."""

    clip_low: Annotated[float, Range(0.0, 1.0, exclusive_minimum=True)] = 0.2
    """The probability ratio is clipped below 1 - clip_low."""
    clip_high: Positive = 0.28
    """The probability ratio is clipped above 1 + clip_high (0.28: DAPO, arXiv 2503.14476)."""
    loss_normalisation: Literal["per_step", "per_sequence", "per_group", "constant"] = "per_step"
    """What the sum over steps is divided by; see `objectives.step_weights`."""
    loss_constant: Positive | None = None
    """Steps that a trajectory's sum is divided by with "constant"; None: the longest of the
    iteration."""
    kl_coefficient: NonNegative = 0.0
    """Weight of the exact KL from the reference policy; 0 needs no reference."""
    kl_reference: Literal["initial", "collection"] = "initial"
    """The reference: the policy at the start of training, or the one that collected."""
    entropy_coefficient: NonNegative = 0.0
    """Weight of the entropy bonus."""

    learning_rate: Positive = 3.0e-3
    """Step size of AdamW."""
    learning_rate_schedule: Literal["constant", "linear", "cosine"] = "linear"
    """How the learning rate falls, by environment steps."""
    final_learning_rate: Annotated[float, Range(0.0, 1.0)] = 0.05
    """Share of the learning rate that is left at the end of the schedule."""
    weight_decay: NonNegative = 0.0
    """AdamW's decoupled weight decay."""
    max_grad_norm: Positive = 0.5
    """The gradient's norm is clipped here."""
    epochs: Count = 3
    """Passes over each iteration's steps."""
    num_minibatches: Count = 8
    """Minibatches a pass."""
    target_kl: Positive | None = None
    """Stop an iteration's passes when the exact KL(old, new), in nats a step, exceeds this."""

    hidden_sizes: tuple[Count, ...] = (64, 64)
    """Width of each hidden layer of the `mlp` policy."""
    activation: Literal["tanh", "relu", "silu"] = "tanh"
    """Activation of the `mlp` policy."""
    normalise_observations: bool = True
    """Normalise observations by their running mean and deviation."""
    initial_log_std: float = -0.5
    """Log standard deviation of Box actions at the start, in units of half the action range."""
    log_std_bounds: tuple[float, float] = (-3.0, 0.5)
    """Limits of the log standard deviation: without a critic's pull it could explode."""

    seed: Annotated[int, Range(0)] = 0
    """Decides everything that is random."""
    torch_threads: Count = 1
    """Threads of torch; small networks lose with more."""

    def __post_init__(self) -> None:
        check_fields(self)
        low, high = self.log_std_bounds
        if not low < self.initial_log_std < high:
            raise ConfigError(
                f"initial_log_std must lie inside log_std_bounds {self.log_std_bounds}, got "
                f"{self.initial_log_std}"
            )
        if self.loss_constant is not None and self.loss_normalisation != "constant":
            raise ConfigError(
                'loss_constant must be None unless loss_normalisation is "constant", got '
                f"{self.loss_constant}"
            )

    @property
    def num_envs(self) -> int:
        """Environments that are collected from at once, B = G * K."""
        return self.num_groups * self.group_size


# What the papers leave open (sizes, learning rate, epochs) stays as in the default, which was
# chosen for small control problems.
PRESETS: dict[str, dict[str, Any]] = {
    # Reward-to-go against the group's mean at the same time step, batch deviation.
    "default": {},
    # DeepSeekMath, arXiv 2402.03300, sections 4.1.1 and 4.2.
    "grpo": {
        "returns": "outcome",
        "discount": 1.0,
        "baseline": "trajectory",
        "scale": "group",
        "clip_high": 0.2,
        "loss_normalisation": "per_sequence",
        "kl_coefficient": 0.04,
    },
    # Dr. GRPO, arXiv 2503.20783, section 3.2: no deviation, no length, no KL.
    "dr_grpo": {
        "returns": "outcome",
        "discount": 1.0,
        "baseline": "trajectory",
        "scale": "none",
        "clip_high": 0.2,
        "loss_normalisation": "constant",
    },
    # LOOP, arXiv 2502.01600: leave one out, per-step clipping to [1/1.1, 1.1], 2 epochs.
    "loop": {
        "returns": "outcome",
        "discount": 1.0,
        "baseline": "trajectory",
        "center": "leave_one_out",
        "scale": "none",
        "min_advantage": 0.01,
        "clip_low": 1.0 - 1.0 / 1.1,
        "clip_high": 0.1,
        "epochs": 2,
    },
    # Magistral, arXiv 2506.10910, section 2.1: centred, then normalised over the batch.
    "magistral": {
        "returns": "outcome",
        "discount": 1.0,
        "baseline": "trajectory",
        "scale": "batch",
        "clip_high": 0.28,
        "loss_normalisation": "per_group",
    },
    # DAPO, arXiv 2503.14476, eq. 8: group deviation, every step the same, clip-higher, no KL.
    "dapo": {
        "returns": "outcome",
        "discount": 1.0,
        "baseline": "trajectory",
        "scale": "group",
        "clip_high": 0.28,
    },
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
