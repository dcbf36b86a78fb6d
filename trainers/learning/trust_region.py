"""A trust-region step: natural gradient, step size from the KL bound, then a line search.

Independent of rollouts and configs: the surrogate and the divergence are functions of the current
parameters, each a sum over shards of which one is computed at a time.

Shapes: N is the total number of parameters; vectors concatenate them in order.

Source: TRPO (arXiv 1502.05477), section 6 and appendix C.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from grpo_gym.trainers.learning.sharding import WHOLE, Shards
from grpo_gym.trainers.learning.vectors import as_vector, assign

Part = Callable[[int], Tensor]
"""A shard's part of a scalar at the current parameters, with a graph to them."""

# The full step stays this far below the KL bound of the quadratic model: where the model is exact,
# rounding must not halve the step.
_ROUNDING_MARGIN = 1e-4


@dataclass(frozen=True)
class TrustRegionStep:
    """The result of a step.

    Attributes:
        accepted: Whether the parameters changed.
        kl: KL(old, new) after the step, nats per step; before it if none was accepted.
        step_scale: Fraction of the full step that was taken, a power of 1/2; 0 if none.
        gradient_norm: Of the surrogate, before the step.
    """

    accepted: bool
    kl: float
    step_scale: float
    gradient_norm: float


def conjugate_gradient(
    product: Callable[[Tensor], Tensor],
    target: Tensor,
    iterations: int,
    tolerance: float = 1e-10,
) -> Tensor:
    """Solve A x = target for a symmetric positive (semi-)definite A, starting from x = 0.

    Dot products are accumulated in float64. Stops early at a direction without positive curvature,
    which has no finite step.

    Args:
        product: Multiplies a vector, shape (N,), by A.
        target: Shape (N,).
        iterations: Maximum number of products with A; N solve the system up to rounding.
        tolerance: Stops when the squared residual is at most this fraction of the squared target.

    Returns:
        x, shape (N,).

    Source: Hestenes and Stiefel (1952); TRPO (arXiv 1502.05477), appendix C.
    """
    solution = torch.zeros_like(target)
    residual = direction = target
    squared = initial = _dot(target, target)
    for _ in range(iterations):
        if squared <= tolerance * initial:
            break
        image = product(direction)
        curvature = _dot(direction, image)
        if curvature <= 0.0:
            break
        length = squared / curvature
        solution = solution + length * direction
        residual = residual - length * image
        previous, squared = squared, _dot(residual, residual)
        direction = residual + (squared / previous) * direction
    return solution


def fisher_product(
    divergence: Part, parameters: Sequence[nn.Parameter], damping: float, shards: Shards = WHOLE
) -> Callable[[Tensor], Tensor]:
    """The map v -> (F + damping) v, with F the Hessian of the divergence.

    Where old and new policy are the same, that Hessian is the Fisher matrix.

    Args:
        divergence: Mean KL(old, new), nats per step.
        parameters: To differentiate with respect to; those without influence have zero rows in F.
        damping: Added to F's diagonal.
        shards: What the divergence is a sum over.

    Returns:
        A function of vectors (N,). It raises FloatingPointError if a product is not finite.

    Source: TRPO (arXiv 1502.05477), appendix C.1; double backward: Pearlmutter (1994).
    """
    slopes = {
        shard: _flat_gradient(divergence(shard), parameters, create_graph=True)
        for shard in shards.mine
    }

    def product(vector: Tensor) -> Tensor:
        def part(shard: int) -> Tensor:
            slope = slopes[shard]
            if not slope.requires_grad:
                return torch.zeros_like(vector)
            return _flat_gradient(slope @ vector, parameters, retain_graph=True)

        image = damping * vector + shards.total(part, vector)
        if not bool(torch.isfinite(image).all()):
            raise FloatingPointError(
                "the curvature of the KL is not finite: look for unbounded observations or a "
                "policy that has become deterministic"
            )
        return image

    return product


def trust_region_step(
    parameters: Sequence[nn.Parameter],
    surrogate: Part,
    divergence: Part,
    *,
    shards: Shards = WHOLE,
    max_kl: float,
    damping: float,
    conjugate_gradient_iterations: int,
    backtracks: int,
) -> TrustRegionStep:
    """Raise the surrogate as far as mean KL(old, new) <= max_kl allows.

    The full step is x sqrt(2 max_kl / (x (F + damping) x)), where x solves
    (F + damping) x = gradient. It is halved until the surrogate has improved and the KL is at most
    max_kl (OpenAI Baselines accepts 1.5 max_kl). A point whose surrogate or KL is not finite is
    rejected.

    Args:
        parameters: Changed in place if a point is accepted, else left as they are; their `grad`
            is not touched.
        surrogate: The scalar to maximise.
        divergence: Mean KL(old, new), nats per step; the old policy is a constant in it, equal to
            the policy before the step.
        shards: What both are sums over.
        max_kl: Bound of the divergence, nats per step.
        damping: Added to the Fisher matrix's diagonal. It bounds steps in directions that do not
            change the divergence, and shortens all others.
        conjugate_gradient_iterations: Maximum number of iterations.
        backtracks: Maximum number of halvings.

    Raises:
        FloatingPointError: If the surrogate, its gradient, the divergence or its curvature is not
            finite before the step; the parameters are as before.

    Source: TRPO (arXiv 1502.05477), eq. 14 and appendix C.
    """
    origin = as_vector(parameters)

    def measured(shard: int) -> Tensor:
        return _value_and_gradient(surrogate(shard), parameters)

    objective = shards.total(measured, origin.new_empty(1 + len(origin)))
    before, gradient = float(objective[0]), objective[1:]
    distances = {shard: divergence(shard) for shard in shards.mine}
    start = float(shards.total(lambda shard: distances[shard].detach(), origin.new_empty(())))
    gradient_norm = math.sqrt(_dot(gradient, gradient))
    if not math.isfinite(gradient_norm + before + start):
        raise FloatingPointError(
            f"the surrogate ({before}), the norm of its gradient ({gradient_norm}) and the KL "
            f"({start}) must be finite: look for unbounded rewards or observations"
        )
    if gradient_norm == 0.0:
        return TrustRegionStep(False, start, 0.0, 0.0)
    product = fisher_product(distances.__getitem__, parameters, damping, shards)
    direction = conjugate_gradient(product, gradient, conjugate_gradient_iterations)
    curvature = _dot(direction, product(direction))
    if curvature > 0.0:
        length = math.sqrt(2.0 * max_kl * (1.0 - _ROUNDING_MARGIN) / curvature)
        full_step = length * direction
        scale, kl = _line_search(
            parameters, full_step, surrogate, divergence, shards, before, max_kl, backtracks
        )
        if scale > 0.0:
            return TrustRegionStep(True, kl, scale, gradient_norm)
    return TrustRegionStep(False, start, 0.0, gradient_norm)


def _line_search(
    parameters: Sequence[nn.Parameter],
    full_step: Tensor,
    surrogate: Part,
    divergence: Part,
    shards: Shards,
    before: float,
    max_kl: float,
    backtracks: int,
) -> tuple[float, float]:
    """Move to the first acceptable point; returns its scale, 0 if there is none, and its KL."""
    origin = as_vector(parameters)
    accepted = False
    try:
        for halvings in range(backtracks + 1):
            scale = 0.5**halvings
            assign(parameters, origin + scale * full_step)
            gain = _value(surrogate, shards, origin) - before
            kl = _value(divergence, shards, origin)
            accepted = 0.0 < gain < math.inf and kl <= max_kl
            if accepted:
                return scale, kl
        return 0.0, math.nan
    finally:  # also when the surrogate raises
        if not accepted:
            assign(parameters, origin)


@torch.no_grad()
def _value(function: Part, shards: Shards, like: Tensor) -> float:
    return float(shards.total(function, like.new_empty(())))


def _value_and_gradient(value: Tensor, parameters: Sequence[nn.Parameter]) -> Tensor:
    """A scalar and its gradient, shape (1 + N,)."""
    return torch.cat([value.detach().reshape(1), _flat_gradient(value, parameters)])


def _flat_gradient(
    value: Tensor,
    parameters: Sequence[nn.Parameter],
    *,
    create_graph: bool = False,
    retain_graph: bool | None = None,
) -> Tensor:
    """Gradient of a scalar, shape (N,); 0 for parameters without influence."""
    gradients = torch.autograd.grad(
        value,
        parameters,
        create_graph=create_graph,
        retain_graph=retain_graph,
        materialize_grads=True,
    )
    return torch.cat([gradient.ravel() for gradient in gradients])


def _dot(left: Tensor, right: Tensor) -> float:
    return float(left.cpu().to(torch.float64) @ right.cpu().to(torch.float64))
