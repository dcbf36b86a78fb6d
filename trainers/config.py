"""Settings of GRPO; `trainers.presets` has the named variants, which are nothing but settings."""

import json
from dataclasses import dataclass
from typing import Annotated, Literal

from grpo_gym.settings.config import ConfigError, Range, check_fields

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
    grouping: Literal["shared", "branch", "unrelated"] = "shared"
    """"shared": members start from one state and meet one outside world. "branch": so they do,
    and every `branch_every` steps the group starts anew from where one of them is. "unrelated":
    every member has a seed of its own, as in arXiv 2511.03527; for comparison."""
    branch_every: Count = 50
    """Steps between two branchings. 1 compares single actions at one state: a step group. This and
    the next two say how groups branch if `grouping` lets them."""
    branch_lookahead: Annotated[int, Range(0)] = 0
    """Further steps that members take before the group branches: they count for the returns,
    and as environment steps, but are not learned from."""
    branch_from: Literal["random", "first", "best"] = "random"
    """The member to go on from: a random one, the first, or the best since the last branching;
    of those whose episode goes on."""
    max_episode_steps: Count | None = None
    """Cuts training episodes short (truncation), in steps; None leaves them whole.
    Evaluation episodes are always whole."""
    refill_rounds: Annotated[int, Range(0)] = 0
    """Collect at most so many times more to replace groups whose returns are all equal (DAPO,
    arXiv 2503.14476); their steps count."""
    frame_history: Count = 1
    """Observations that the policy sees at once, the last of them the newest."""

    returns: Literal["outcome", "reward_to_go"] = "reward_to_go"
    """What a step is credited with: the return of its trajectory, or what came after it."""
    discount: Annotated[float, Range(0.0, 1.0, exclusive_minimum=True)] = 0.99
    """Discount factor of returns, per step."""
    final_discount: Annotated[float, Range(0.0, 1.0, exclusive_minimum=True)] | None = None
    """The discount factor at the end of training, to which it moves evenly by environment steps;
    None: it stays. Rising, it shows first what an action does soon, with less noise. Each call of
    `learn` begins at `discount` again; `anchor_discount` stays."""
    baseline: Literal["none", "batch", "trajectory", "time_step", "time_bin", "state_bin"] = (
        "time_step"
    )
    """What a return is compared with: nothing, the mean of the batch, or that of its group: one
    a "trajectory", one a "time_step" (members that have ended count with 0) or a "time_bin"
    (they do not count), or one a bin of states. See `advantages.group_advantages`."""
    state_bin_width: NonNegative = 0.5
    """Size of a bin in each feature, in deviations with `normalise_observations`, for
    "state_bin" and anchors; 0: only equal states share a bin."""
    anchor_weight: NonNegative = 0.0
    """Weight of the comparison among steps taken in the same state (GiGPO: 1)."""
    anchor_discount: Annotated[float, Range(0.0, 1.0, exclusive_minimum=True)] = 0.95
    """Discount factor of the returns compared there (0.95: GiGPO, arXiv 2505.10978)."""
    learned_baseline: bool = False
    """Subtract a learned state value from each return before the comparison: what a critic
    adds, or with baseline "none" all there is."""
    value_learning_rate: Positive = 3.0e-3
    """Step size of AdamW for the learned baseline."""
    center: Literal["mean", "leave_one_out"] = "mean"
    """Whether a member's own return is part of its baseline."""
    scale: Literal["none", "group", "batch", "time_step"] = "batch"
    """Which root mean square of the centred values, a standard deviation, divides them."""
    drop_uniform_groups: bool = True
    """Leave out groups whose compared returns are all equal, with their KL and entropy (DAPO,
    arXiv 2503.14476). The baselines "none" and "batch" compare no groups."""
    min_advantage: NonNegative = 0.0
    """Leave out steps whose advantage is smaller in size (LOOP: 0.01)."""

    update: Literal["adamw", "trust_region"] = "adamw"
    """"adamw": several passes of minibatches. "trust_region": one natural-gradient step whose
    exact KL(old, new) stays below `max_kl`."""
    objective: Literal["clipped", "unclipped", "upper_clipped", "cispo", "reinforce"] = "clipped"
    """What is maximised; see `objectives.policy_objective`."""
    ratio: Literal["step", "sequence", "sequence_mean"] = "step"
    """The importance ratio: of each step's action, or of its whole trajectory (product, or
    geometric mean); the latter take minibatches of whole trajectories or groups."""
    clip_low: Annotated[float, Range(0.0, 1.0, exclusive_minimum=True)] = 0.2
    """The probability ratio is clipped below 1 - clip_low; 1: not at all."""
    clip_high: Positive = 0.28
    """The probability ratio is clipped above 1 + clip_high (0.28: DAPO, arXiv 2503.14476)."""
    dual_clip: Annotated[float, Range(1.0, exclusive_minimum=True)] | None = None
    """The objective of a negative advantage A ends at dual_clip * A (3: arXiv 1912.09729)."""
    loss_normalisation: Literal["per_step", "per_sequence", "per_group", "constant"] = "per_step"
    """What the sum over steps is divided by; see `objectives.step_weights`."""
    loss_constant: Positive | None = None
    """Steps that a trajectory's sum is divided by with "constant"; None: the longest of the
    iteration."""
    kl_coefficient: NonNegative = 0.0
    """Weight of the KL from the reference policy; 0 needs no reference."""
    kl_estimator: Literal["exact", "k1", "k2", "k3", "k3_plus"] = "exact"
    """The exact KL, or an estimate from the action taken; see `objectives.estimate_kl`."""
    kl_reference: Literal["initial", "collection", "moving_average", "refreshed"] = "initial"
    """The reference: the policy at the start of training, the one that collected, a moving
    average of weights, or the policy of some iterations ago."""
    reference_decay: Annotated[float, Range(0.0, 1.0, exclusive_maximum=True)] = 0.95
    """Share of a "moving_average" that an iteration leaves."""
    reference_every: Count = 10
    """Iterations after which a "refreshed" reference becomes the policy."""
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
    minibatches: Literal["steps", "trajectories", "time_steps", "groups"] | None = None
    """What stays whole when a pass is divided into minibatches: single "steps", all steps of a
    member ("trajectories"), all members of a group at one time step ("time_steps": those that
    baseline "time_step" compares), or all steps of all members ("groups"). None: "steps", or
    "trajectories" where `ratio` needs them."""
    num_minibatches: Count = 8
    """Minibatches a pass, at most; `minibatch_size` can make them more."""
    minibatch_size: Count | None = None
    """Steps of a minibatch, at most: a pass has as many minibatches more as that takes. With groups
    of 8 and "time_steps", 64 is 8 groups. Where what stays whole is longer than that, each is a
    minibatch; where it differs in length, the mean counts. None: any number."""
    target_kl: Positive | None = None
    """Make no further pass when the exact KL(old, new), in nats a step, exceeded this on average
    over the latest one (each minibatch before its own step)."""

    max_kl: Positive = 0.01
    """Bound of "trust_region" on the exact KL(old, new), nats a step (arXiv 1502.05477)."""
    damping: NonNegative = 0.1
    """Multiple of the identity that "trust_region" adds to the Fisher matrix."""
    conjugate_gradient_iterations: Count = 10
    """Iterations in which "trust_region" solves for the natural gradient."""
    backtracks: Count = 10
    """Halvings of a step that "trust_region" tries."""

    hidden_sizes: tuple[Count, ...] = (64, 64)
    """Width of each hidden layer of the `mlp` policy, and after the recurrence of `gru`."""
    activation: Literal["tanh", "relu", "silu"] = "tanh"
    """Activation of the `mlp` policy."""
    channels: Count = 32
    """Images of a hidden layer of the `board` policy."""
    blocks: Count = 2
    """Residual blocks of the `board` policy, of two 3 x 3 convolutions each."""
    gru_width: Count = 64
    """Width of the recurrent layer of the `gru` policy."""
    lstm_width: Count = 128
    """Width of the recurrence and of all tokens of the `temporal` policy."""
    lstm_layers: Count = 2
    """Layers of its recurrence."""
    attention_heads: Count = 4
    """Heads of its attention over the recurrence's outputs; they divide `lstm_width`."""
    transformer_layers: Annotated[int, Range(0)] = 1
    """Layers of its transformer encoder; 0: none. The published design has 4, and otherwise these
    defaults."""
    transformer_heads: Count = 8
    """Heads of each of those layers; they divide `lstm_width`."""
    feedforward_width: Count = 256
    """Width of each of those layers between its two linear ones."""
    augment_symmetries: bool = False
    """Turn and mirror the board of each minibatch at random: what was learned on one board holds
    on all 8. Only for the `board` policy."""
    normalise_observations: bool | None = None
    """Normalise observations by their running mean and deviation; None: all policies but `board`
    do."""
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
        self._check_combinations()

    def _check_combinations(self) -> None:
        if self.center == "leave_one_out" and self.baseline not in ("trajectory", "time_step"):
            raise ConfigError(
                'center must be "mean" unless baseline is "trajectory" or "time_step", got '
                f'"leave_one_out" with "{self.baseline}"'
            )
        if self.dual_clip is not None and self.objective != "clipped":
            raise ConfigError(
                f'dual_clip must be None unless objective is "clipped", got {self.dual_clip} with '
                f'"{self.objective}"'
            )
        self._check_trust_region()
        for name in ("attention_heads", "transformer_heads"):
            if self.lstm_width % getattr(self, name):
                raise ConfigError(
                    f"{name} must divide lstm_width {self.lstm_width}, got {getattr(self, name)}: "
                    "choose a divisor of it"
                )
        self._check_minibatches()
        if self.objective == "reinforce" and self.ratio != "step":
            raise ConfigError(
                f'ratio must be "step" with objective "reinforce", got "{self.ratio}": it has none'
            )
        if self.ratio != "step" and self.min_advantage > 0.0:
            raise ConfigError(
                f'min_advantage must be 0 unless ratio is "step", got {self.min_advantage} with '
                f'"{self.ratio}": a trajectory\'s ratio needs all its steps'
            )
        if self.refill_rounds and self.grouping == "branch":
            raise ConfigError(
                f'refill_rounds must be 0 with grouping "branch", got {self.refill_rounds}: there '
                "are always more groups than num_groups"
            )
        if self.refill_rounds and not self.drop_uniform_groups:
            raise ConfigError(
                "refill_rounds must be 0 unless drop_uniform_groups is true, got "
                f"{self.refill_rounds}: there would be nothing to replace"
            )
        if self.refill_rounds and self.baseline in ("none", "batch"):
            raise ConfigError(
                f'refill_rounds must be 0 with baseline "{self.baseline}", got '
                f"{self.refill_rounds}: it compares no groups"
            )
        if self.loss_constant is not None and self.loss_normalisation != "constant":
            raise ConfigError(
                'loss_constant must be None unless loss_normalisation is "constant", got '
                f"{self.loss_constant}"
            )

    def _check_trust_region(self) -> None:
        """A trust region maximises the plain surrogate: refuse another that would be ignored."""
        if self.update != "trust_region":
            return
        only: dict[str, tuple[object, ...]] = {
            "ratio": ("step",),
            "objective": ("clipped", "unclipped"),
            "dual_clip": (None,),
        }
        for name, values in only.items():
            if getattr(self, name) not in values:
                raise ConfigError(
                    f'{name} must be {json.dumps(values[0])} with update "trust_region", got '
                    f"{json.dumps(getattr(self, name))}"
                )

    def _check_minibatches(self) -> None:
        if self.ratio != "step" and self.minibatches in ("steps", "time_steps"):
            raise ConfigError(
                f'minibatches must be "trajectories" or "groups" with ratio "{self.ratio}", got '
                f'"{self.minibatches}": a trajectory\'s ratio needs all its steps'
            )
        if (
            self.minibatches == "time_steps"
            and self.minibatch_size is not None
            and self.minibatch_size < self.group_size
        ):
            raise ConfigError(
                f"minibatch_size must be >= group_size {self.group_size} with minibatches "
                f'"time_steps", got {self.minibatch_size}: groups would be split'
            )

    @property
    def num_envs(self) -> int:
        """Environments that are collected from at once, B = G * K."""
        return self.num_groups * self.group_size
