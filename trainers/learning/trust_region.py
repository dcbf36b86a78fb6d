"""A trust-region step: natural gradient, step size from the KL bound, then a line search.

Independent of rollouts and configs: the surrogate and the divergence are functions without
arguments of the current parameters.

Shapes: N is the total number of parameters; vectors concatenate them in order.

Source: TRPO (arXiv 1502.05477), section 6 and appendix C.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

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
    divergence: Tensor, parameters: Sequence[nn.Parameter], damping: float
) -> Callable[[Tensor], Tensor]:
    """The map v -> (F + damping) v, with F the Hessian of the divergence.

    Where old and new policy are the same, that Hessian is the Fisher matrix.

    Args:
        divergence: Mean KL(old, new), nats per step, scalar with a graph to the parameters.
        parameters: To differentiate with respect to; those without influence have zero rows in F.
        damping: Added to F's diagonal.

    Returns:
        A function of vectors (N,). It raises FloatingPointError if a product is not finite.

    Source: TRPO (arXiv 1502.05477), appendix C.1; double backward: Pearlmutter (1994).
    """
    slope = _flat_gradient(divergence, parameters, create_graph=True)

    def product(vector: Tensor) -> Tensor:
        image = damping * vector
        if slope.requires_grad:
            image = image + _flat_gradient(slope @ vector, parameters, retain_graph=True)
        if not bool(torch.isfinite(image).all()):
            raise FloatingPointError(
                "the curvature of the KL is not finite: look for unbounded observations or a "
                "policy that has become deterministic"
            )
        return image

    return product


def trust_region_step(
    parameters: Sequence[nn.Parameter],
    surrogate: Callable[[], Tensor],
    divergence: Callable[[], Tensor],
    *,
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
        surrogate: The scalar to maximise at the current parameters, with a graph to them.
        divergence: Mean KL(old, new), nats per step, at the current parameters, with a graph to
            them; the old policy is a constant in it, equal to the policy before the step.
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
    objective, distance = surrogate(), divergence()
    before, start = float(objective.detach()), float(distance.detach())
    gradient = _flat_gradient(objective, parameters)
    gradient_norm = math.sqrt(_dot(gradient, gradient))
    if not math.isfinite(gradient_norm + before + start):
        raise FloatingPointError(
            f"the surrogate ({before}), the norm of its gradient ({gradient_norm}) and the KL "
            f"({start}) must be finite: look for unbounded rewards or observations"
        )
    if gradient_norm == 0.0:
        return TrustRegionStep(False, start, 0.0, 0.0)
    product = fisher_product(distance, parameters, damping)
    direction = conjugate_gradient(product, gradient, conjugate_gradient_iterations)
    curvature = _dot(direction, product(direction))
    if curvature > 0.0:
        length = math.sqrt(2.0 * max_kl * (1.0 - _ROUNDING_MARGIN) / curvature)
        scale, kl = _line_search(
            parameters, length * direction, surrogate, divergence, before, max_kl, backtracks
        )
        if scale > 0.0:
            return TrustRegionStep(True, kl, scale, gradient_norm)
    return TrustRegionStep(False, start, 0.0, gradient_norm)


def _line_search(
    parameters: Sequence[nn.Parameter],
    full_step: Tensor,
    surrogate: Callable[[], Tensor],
    divergence: Callable[[], Tensor],
    before: float,
    max_kl: float,
    backtracks: int,
) -> tuple[float, float]:
    """Move to the first acceptable point; returns its scale, 0 if there is none, and its KL."""
    origin = torch.cat([parameter.detach().ravel() for parameter in parameters])
    accepted = False
    try:
        for halvings in range(backtracks + 1):
            scale = 0.5**halvings
            _assign(parameters, origin + scale * full_step)
            with torch.no_grad():
                gain, kl = float(surrogate()) - before, float(divergence())
            accepted = 0.0 < gain < math.inf and kl <= max_kl
            if accepted:
                return scale, kl
        return 0.0, math.nan
    finally:  # also when the surrogate raises
        if not accepted:
            _assign(parameters, origin)


@torch.no_grad()
def _assign(parameters: Sequence[nn.Parameter], values: Tensor) -> None:
    """Copy N numbers, shape (N,), into the parameters."""
    parts = values.split([parameter.numel() for parameter in parameters])
    for parameter, part in zip(parameters, parts, strict=True):
        parameter.copy_(part.view_as(parameter))


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
    return float(left.to(torch.float64) @ right.to(torch.float64))
