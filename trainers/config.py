"""Settings of GRPO, in four sections; `trainers.presets` holds the named variants.

Each section is a class: how to collect, how to estimate advantages, how to update, and the
network. `GRPOConfig` inherits from all of them, so every setting has one flat name in YAML files,
on the command line, as a keyword and as an attribute, while a function asks only for the section
that it needs.
"""

import json
import re
from typing import Annotated, Literal

from pydantic import Field

from grpo_gym.policies.options import NetworkConfig
from grpo_gym.settings import (
    ConfigError,
    Count,
    Flag,
    Fraction,
    Integer,
    Natural,
    NonNegative,
    Number,
    Positive,
    PositiveFraction,
    PositiveWeight,
    Weight,
    checked_dataclass,
)

OF_THE_MACHINE = ("device", "workers", "worker_timeout_s")
"""Settings of where a run is computed, which may go on elsewhere."""
_DEVICE = re.compile(r"auto|cpu|mps|cuda(:\d{1,3})?")


@checked_dataclass
class CollectConfig:
    """How groups of trajectories are collected."""

    num_groups: Annotated[Integer, Field(ge=1, le=1_000_000)] = 8
    """Groups per iteration, G."""
    group_size: Annotated[Integer, Field(ge=2, le=1_000_000)] = 16
    """Members per group, K."""
    grouping: Literal["shared", "branch", "unrelated"] = "shared"
    """"shared": the members of a group start from one state and share one trace. "branch": the
    same, and every `branch_every` steps the group restarts from where one of its members is.
    "unrelated": every member has its own seed, as in arXiv 2511.03527; for reference."""
    branch_every: Count = 50
    """Steps between two branchings; 1 compares single actions in one state (a step group). Only
    used with grouping "branch", as are the next two."""
    branch_lookahead: Natural = 0
    """Extra steps that members take before the group branches. They count towards returns and
    environment steps, but nothing is learned from them."""
    branch_from: Literal["random", "first", "best"] = "random"
    """The member that the group continues from: a random one, the first, or the one with the
    highest return since the last branching; only members whose episode continues qualify."""
    max_episode_steps: Count | None = None
    """Truncates training episodes after this many steps; None: no extra limit. Evaluation
    episodes are never shortened."""
    refill_rounds: Natural = 0
    """Collect at most this many extra rounds to replace groups whose returns are all equal (DAPO,
    arXiv 2503.14476); their steps count."""
    workers: Annotated[Integer, Field(ge=0, le=1024)] = 0
    """Processes in which training steps environments that are neither native nor a vector
    environment, whole groups in each; 0: in this process. Results do not depend on it."""
    worker_timeout_s: Positive = 60.0
    """Seconds after which a worker that has not made its step hangs, and is replaced."""

    @property
    def num_envs(self) -> int:
        """Environments that are stepped together, B = G * K."""
        return self.num_groups * self.group_size


@checked_dataclass
class AdvantageConfig:
    """How returns become advantages."""

    returns: Literal["outcome", "reward_to_go"] = "reward_to_go"
    """The return of a step: that of its whole trajectory, or the reward from that step on."""
    discount: PositiveFraction = 0.99
    """Discount factor of returns, per step."""
    final_discount: PositiveFraction | None = None
    """Discount factor at the end of training, reached linearly in environment steps; None:
    constant. A rising discount starts with short-term effects, whose returns are less noisy. Each
    call of `learn` starts at `discount` again; `anchor_discount` stays constant."""
    baseline: Literal[
        "none", "batch", "trajectory", "time_step", "time_bin", "state_bin", "state", "auto"
    ] = "time_step"
    """What is subtracted from a return: nothing, the mean of the batch, or a mean of the group:
    per "trajectory", per "time_step" (the batch's mean stands in for members that have ended), per
    "time_bin" (nothing does), or per bin of states; see `learning.advantages.group_advantages`.
    "state": what the other members' returns say of the state; see `learning.state_baseline`.
    "auto": in each iteration that of "time_step" and "state" which explains more of the variance
    of the returns."""
    gae_lambda: PositiveFraction = 1.0
    """With baseline "state", the weight of each further step in an advantage (GAE, arXiv
    1506.02438); 1: whole returns, without the bias of predicting later states."""
    state_bin_width: NonNegative = 0.5
    """Bin width per feature for "state_bin" and anchors, in standard deviations with
    `normalise_observations`; 0: only equal states share a bin."""
    anchor_weight: Weight = 0.0
    """Weight of the advantage among steps taken in the same state (GiGPO: 1)."""
    anchor_discount: PositiveFraction = 0.95
    """Discount factor of that advantage's returns (GiGPO, arXiv 2505.10978: 0.95)."""
    learned_baseline: Flag = False
    """Subtract a learned state value from each return first: what a critic would add, or with
    baseline "none" the only baseline."""
    value_learning_rate: PositiveWeight = 3.0e-3
    """AdamW step size of the learned baseline."""
    center: Literal["mean", "leave_one_out"] = "mean"
    """Whether a member's own return is part of its baseline."""
    scale: Literal["none", "group", "batch", "time_step"] = "batch"
    """Divide centred returns by their standard deviation over the group, the batch, or the group
    at the same time step; or not at all."""
    drop_uniform_groups: Flag = True
    """Leave groups whose returns are all equal out of the update, KL and entropy terms included
    (DAPO, arXiv 2503.14476). With the baselines "none", "batch" and "state", those whose
    advantages are all 0."""
    min_advantage: NonNegative = 0.0
    """Leave out steps whose absolute advantage is smaller (LOOP: 0.01)."""

    @property
    def bins_states(self) -> bool:
        """Whether steps are compared that were taken in similar states."""
        return self.baseline == "state_bin" or self.anchor_weight > 0.0

    @property
    def fits_states(self) -> bool:
        """Whether returns are fitted on the states."""
        return self.baseline in ("state", "auto")

    def _check_advantages(self) -> None:
        if self.baseline in ("state", "auto") and self.learned_baseline:
            raise ConfigError(
                f'learned_baseline must be false with baseline "{self.baseline}", which predicts '
                "returns itself, got true"
            )
        if self.baseline in ("state", "auto") and self.returns != "reward_to_go":
            raise ConfigError(
                f'returns must be "reward_to_go" with baseline "{self.baseline}", got '
                f'"{self.returns}"'
            )
        if self.center == "leave_one_out" and self.baseline not in ("trajectory", "time_step"):
            raise ConfigError(
                'center must be "mean" unless baseline is "trajectory" or "time_step", got '
                f'"leave_one_out" with "{self.baseline}"'
            )


@checked_dataclass
class UpdateConfig:
    """How the policy is improved."""

    update: Literal["adamw", "trust_region"] = "adamw"
    """"adamw": several epochs of minibatches. "trust_region": one natural-gradient step whose
    exact KL(old, new) stays below `max_kl`."""
    objective: Literal["clipped", "unclipped", "upper_clipped", "cispo", "reinforce"] = "clipped"
    """The surrogate objective; see `learning.objectives.policy_objective`."""
    ratio: Literal["step", "sequence", "sequence_mean"] = "step"
    """Importance ratio of each action, or of the whole trajectory (product or geometric mean);
    the latter two need minibatches of whole trajectories or groups."""
    clip_low: PositiveFraction = 0.2
    """The ratio is clipped below 1 - clip_low; 1: not at all."""
    clip_high: PositiveWeight = 0.28
    """The ratio is clipped above 1 + clip_high (DAPO, arXiv 2503.14476: 0.28)."""
    dual_clip: Annotated[Number, Field(gt=1)] | None = None
    """For a negative advantage A the objective is at least dual_clip * A (arXiv 1912.09729: 3)."""
    loss_normalisation: Literal["per_step", "per_sequence", "per_group", "constant"] = "per_step"
    """What the sum over steps is divided by; see `learning.objectives.step_weights`."""
    loss_constant: Positive | None = None
    """With "constant": steps that a trajectory's sum is divided by; None: the longest trajectory
    of the iteration."""
    kl_coefficient: Weight = 0.0
    """Weight of the KL divergence from the reference policy; 0 needs no reference."""
    kl_estimator: Literal["exact", "k1", "k2", "k3", "k3_plus"] = "exact"
    """The exact KL, or an estimate from the action taken; see `learning.objectives.estimate_kl`."""
    kl_reference: Literal["initial", "collection", "moving_average", "refreshed"] = "initial"
    """The reference: the initial policy, the policy that collected, a moving average of weights,
    or a copy of the policy taken every `reference_every` iterations."""
    reference_decay: Annotated[Number, Field(ge=0, lt=1)] = 0.95
    """Weight of the previous "moving_average" in each iteration."""
    reference_every: Count = 10
    """Iterations between two copies of a "refreshed" reference."""
    entropy_coefficient: Weight = 0.0
    """Weight of the entropy bonus."""

    learning_rate: PositiveWeight = 3.0e-3
    """AdamW step size."""
    learning_rate_schedule: Literal["constant", "linear", "cosine"] = "linear"
    """How the learning rate decays, by environment steps."""
    final_learning_rate: Fraction = 0.05
    """Fraction of the learning rate that remains at the end of the schedule."""
    weight_decay: Weight = 0.0
    """AdamW's decoupled weight decay."""
    max_grad_norm: Positive = 0.5
    """The gradient is clipped to this norm."""
    epochs: Count = 3
    """Passes over each iteration's steps."""
    minibatches: Literal["steps", "trajectories", "time_steps", "groups"] | None = None
    """The indivisible unit of minibatches: single "steps", all steps of a member
    ("trajectories"), all members of a group at one time step ("time_steps", which is what baseline
    "time_step" centres), or whole "groups". None: "steps", or "trajectories" where `ratio` needs
    them."""
    num_minibatches: Count = 8
    """Minibatches per epoch, at least where there are enough units; see `minibatch_size`."""
    minibatch_size: Count | None = None
    """Steps per minibatch at most: raises the number of minibatches as needed. With groups of 8
    and "time_steps", 64 is 8 groups. A larger unit forms a minibatch of its own; for units of
    different lengths the mean length counts. None: no limit."""
    gradient_shards: Count = 4
    """Parts that each minibatch's gradient is computed in, to be added in their order: so many
    processes can share an update, and all numbers of them have the same result. Another number of
    shards changes the rounding of results."""
    target_kl: Positive | None = None
    """No further epoch once the mean exact KL(old, new) of an epoch, in nats per step, exceeded
    this (measured before each minibatch's own step)."""

    max_kl: Positive = 0.01
    """"trust_region": bound of the exact KL(old, new), nats per step (arXiv 1502.05477)."""
    damping: NonNegative = 0.1
    """"trust_region": multiple of the identity added to the Fisher matrix."""
    conjugate_gradient_iterations: Count = 10
    """"trust_region": iterations to solve for the natural gradient."""
    backtracks: Count = 10
    """"trust_region": halvings of a step that the line search tries."""

    def _check_update(self) -> None:
        if self.dual_clip is not None and self.objective != "clipped":
            raise ConfigError(
                f'dual_clip must be None unless objective is "clipped", got {self.dual_clip} with '
                f'"{self.objective}"'
            )
        if self.update == "trust_region":
            # It maximises the plain surrogate: another one would be ignored.
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
        if self.ratio != "step" and self.minibatches in ("steps", "time_steps"):
            raise ConfigError(
                f'minibatches must be "trajectories" or "groups" with ratio "{self.ratio}", got '
                f'"{self.minibatches}": a trajectory\'s ratio needs all its steps'
            )
        if self.objective == "reinforce" and self.ratio != "step":
            raise ConfigError(
                f'ratio must be "step" with objective "reinforce", got "{self.ratio}": it has none'
            )
        if self.loss_constant is not None and self.loss_normalisation != "constant":
            raise ConfigError(
                'loss_constant must be None unless loss_normalisation is "constant", got '
                f"{self.loss_constant}"
            )


@checked_dataclass
class GRPOConfig(CollectConfig, AdvantageConfig, UpdateConfig, NetworkConfig):
    """Every setting of GRPO; see the sections for their fields."""

    seed: Natural = 0
    """Determines everything random."""
    device: str = "cpu"
    """Where networks are: "cpu", "cuda", "cuda:1", "mps", or "auto" for an accelerator if there is
    one. The environments stay on the CPU, where small networks are faster, and results are the same
    on every machine of a kind."""
    torch_threads: Annotated[Integer, Field(ge=1, le=256)] = 1
    """Threads of torch; small networks are slower with more, and any are with more than there are
    cores."""

    def __post_init__(self) -> None:
        if not _DEVICE.fullmatch(self.device):
            raise ConfigError(
                'device must be "auto", "cpu", "mps", "cuda", or one of several such as "cuda:1", '
                f'got "{self.device}"'
            )
        self._check_network()
        self._check_advantages()
        self._check_update()
        self._check_across_sections()

    def _check_across_sections(self) -> None:
        if (
            self.minibatches == "time_steps"
            and self.minibatch_size is not None
            and self.minibatch_size < self.group_size
        ):
            raise ConfigError(
                f"minibatch_size must be >= group_size {self.group_size} with minibatches "
                f'"time_steps", got {self.minibatch_size}: groups would be split'
            )
        if self.ratio != "step" and self.min_advantage > 0.0:
            raise ConfigError(
                f'min_advantage must be 0 unless ratio is "step", got {self.min_advantage} with '
                f'"{self.ratio}": a trajectory\'s ratio needs all its steps'
            )
        if not self.refill_rounds:
            return
        useless = {
            'with grouping "branch"': self.grouping == "branch",
            "unless drop_uniform_groups is true": not self.drop_uniform_groups,
            f'with baseline "{self.baseline}"': self.baseline in ("none", "batch", "state", "auto"),
        }
        for circumstance, holds in useless.items():
            if holds:
                raise ConfigError(
                    f"refill_rounds must be 0 {circumstance}, got {self.refill_rounds}: no group "
                    "would be replaced"
                )
