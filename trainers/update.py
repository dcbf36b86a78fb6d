"""One iteration's learning: from a grouped rollout to better weights, and what it was like.

Shapes: T steps, G groups, K members; M steps that take part.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from grpo_gym.advantages import compute_returns, group_advantages, informative_groups
from grpo_gym.objectives import clipped_surrogate, step_weights
from grpo_gym.policies.network import Policy
from grpo_gym.rollouts import GroupedRollout
from grpo_gym.trainers.config import GRPOConfig


@dataclass(frozen=True)
class TrainingBatch:
    """The M steps of a rollout that take part in an update.

    Attributes:
        observations: Shape (M, D), float32.
        actions: Shape (M, C).
        old_log_probs: Shape (M,), float32.
        old_outputs: Distribution parameters of the policy that acted, shape (M, P), float32.
        advantages: Shape (M,), float32.
        weights: Share of each step in the loss, shape (M,), float32.
        action_masks: Shape (M, A), bool, or None.
    """

    observations: Tensor
    actions: Tensor
    old_log_probs: Tensor
    old_outputs: Tensor
    advantages: Tensor
    weights: Tensor
    action_masks: Tensor | None

    def __len__(self) -> int:
        return len(self.advantages)

    def __getitem__(self, index: Tensor) -> "TrainingBatch":
        return TrainingBatch(
            self.observations[index],
            self.actions[index],
            self.old_log_probs[index],
            self.old_outputs[index],
            self.advantages[index],
            self.weights[index],
            None if self.action_masks is None else self.action_masks[index],
        )


@dataclass(frozen=True)
class UpdateStats:
    """What an update was like; means over the minibatches of its last pass unless said.

    Attributes:
        loss: What was minimised.
        kl: Exact KL(old, new), nats a step; this and the next two before each minibatch's step.
        reference_kl: Exact KL(new, reference), nats a step; 0 without a reference.
        entropy: Of the policy, nats a step.
        clip_low_share: Share of steps cut off by the lower bound, over all passes.
        clip_high_share: Share of steps cut off by the upper bound, over all passes.
        gradient_norm: Before clipping, over all passes.
        advantage_mean: Over steps that take part.
        advantage_std: Over steps that take part.
        epochs: Passes made; fewer than asked for when `target_kl` stopped them.
        learning_rate: In use.
    """

    loss: float
    kl: float
    reference_kl: float
    entropy: float
    clip_low_share: float
    clip_high_share: float
    gradient_norm: float
    advantage_mean: float
    advantage_std: float
    epochs: int
    learning_rate: float


def compute_advantages(rollout: GroupedRollout, config: GRPOConfig) -> Tensor:
    """Group-relative advantages of every step, shape (T, G, K), float32; 0 where not alive.

    Raises:
        FloatingPointError: If a reward or an observation is not finite.
    """
    for name, values in (("rewards", rollout.rewards), ("observations", rollout.observations)):
        if not bool(torch.isfinite(values).all()):
            raise FloatingPointError(
                f"{name} must be finite, got nan or inf: look at the environment"
            )
    returns = compute_returns(rollout.rewards, rollout.alive, config.returns, config.discount)
    return group_advantages(
        returns,
        rollout.alive,
        baseline=config.baseline,
        center=config.center,
        scale=config.scale,
    ).to(torch.float32)


def training_batch(
    rollout: GroupedRollout, advantages: Tensor, config: GRPOConfig
) -> TrainingBatch:
    """Select and weigh the steps that take part in the update."""
    used = rollout.alive
    if config.drop_uniform_groups:
        used = used & informative_groups(advantages)[None, :, None]
    if config.min_advantage > 0.0:
        used = used & (advantages.abs() >= config.min_advantage)
    constant = config.loss_constant or float(len(rollout.alive))
    weights = step_weights(used, config.loss_normalisation, constant)
    return TrainingBatch(
        rollout.observations[used],
        rollout.actions[used],
        rollout.log_probs[used],
        rollout.outputs[used],
        advantages[used],
        weights[used],
        None if rollout.action_masks is None else rollout.action_masks[used],
    )


def update_policy(
    policy: Policy,
    optimizer: torch.optim.Optimizer,
    batch: TrainingBatch,
    reference: Policy | None,
    config: GRPOConfig,
    generator: torch.Generator,
) -> UpdateStats | None:
    """Improve the policy in several passes over a batch.

    Args:
        policy: Updated in place.
        optimizer: Of the policy's parameters.
        batch: The steps to learn from.
        reference: The policy to stay close to, or None.
        config: The settings.
        generator: Decides the minibatches.

    Returns:
        None if the batch is empty.

    Raises:
        FloatingPointError: If the gradient is not finite; the policy is as before that step.
    """
    if len(batch) == 0:
        return None
    minibatches = min(config.num_minibatches, len(batch))
    parts = []
    for _ in range(config.epochs):
        order = torch.randperm(len(batch), generator=generator)
        latest = [
            _update_minibatch(policy, optimizer, batch[index], len(batch), reference, config)
            for index in order.chunk(minibatches)
        ]
        parts.append(torch.stack(latest).mean(dim=0))
        if config.target_kl is not None and float(parts[-1][1]) > config.target_kl:
            break
    last, overall = parts[-1].tolist(), torch.stack(parts).mean(dim=0).tolist()
    return UpdateStats(
        loss=last[0],
        kl=last[1],
        reference_kl=last[2],
        entropy=last[3],
        clip_low_share=overall[4],
        clip_high_share=overall[5],
        gradient_norm=overall[6],
        advantage_mean=float(batch.advantages.mean()),
        advantage_std=float(batch.advantages.std(correction=0)),
        epochs=len(parts),
        learning_rate=float(optimizer.param_groups[0]["lr"]),
    )


def _update_minibatch(
    policy: Policy,
    optimizer: torch.optim.Optimizer,
    batch: TrainingBatch,
    total: int,
    reference: Policy | None,
    config: GRPOConfig,
) -> Tensor:
    """One gradient step; returns loss, KLs, entropy, clipped shares and gradient norm, (7,)."""
    distribution = policy.distribution(policy(batch.observations), batch.action_masks)
    surrogate = clipped_surrogate(
        distribution.log_prob(batch.actions),
        batch.old_log_probs,
        batch.advantages,
        config.clip_low,
        config.clip_high,
    )
    # A minibatch stands for the whole batch, whose weights it has a share of.
    weights = batch.weights * (total / len(batch))
    entropy = distribution.entropy()
    objective = surrogate.objective + config.entropy_coefficient * entropy
    reference_kl = torch.zeros(())
    if config.kl_coefficient > 0.0:
        with torch.no_grad():
            outputs = batch.old_outputs if reference is None else reference(batch.observations)
        divergence = distribution.kl(policy.distribution(outputs, batch.action_masks))
        objective = objective - config.kl_coefficient * divergence
        reference_kl = divergence.detach().mean()
    loss = -(weights * objective).sum()
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    gradient_norm = nn.utils.clip_grad_norm_(policy.parameters(), config.max_grad_norm)
    if not bool(torch.isfinite(gradient_norm)):
        raise FloatingPointError(
            f"the gradient is not finite ({float(gradient_norm)}): look for unbounded rewards or "
            "observations, or lower learning_rate"
        )
    optimizer.step()
    with torch.no_grad():
        old = policy.distribution(batch.old_outputs, batch.action_masks)
        return torch.stack(
            [
                loss.detach(),
                old.kl(distribution).mean(),
                reference_kl,
                entropy.detach().mean(),
                surrogate.clipped_low.to(torch.float32).mean(),
                surrogate.clipped_high.to(torch.float32).mean(),
                gradient_norm,
            ]
        )
