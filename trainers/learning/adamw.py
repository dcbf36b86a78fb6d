"""AdamW on all parameters as one vector.

It has the state of `torch.optim.AdamW`, so that checkpoints of either fit the other. That one steps
through parameters one by one, and its first use imports torch's compiler, which takes seconds.

Shapes: N is the total number of trainable parameters; vectors concatenate them in order.

Source: Kingma and Ba (arXiv 1412.6980), algorithm 1; Loshchilov and Hutter (arXiv 1711.05101),
algorithm 2.
"""

import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

_BETAS = (0.9, 0.999)


class AdamW:
    """AdamW.

    Attributes:
        param_groups: One group of all parameters with its settings, as torch's optimizers have.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        *,
        lr: float,
        weight_decay: float = 0.0,
        eps: float = 1e-8,
    ) -> None:
        """Start without averages; settings as in torch."""
        group = {"lr": lr, "betas": _BETAS, "eps": eps, "weight_decay": weight_decay}
        self.param_groups: list[dict[str, Any]] = [{"params": list(parameters), **group}]
        self.reset()

    def reset(self) -> None:
        """Forget all averages."""
        self._numbers: list[int] = []
        self._steps = 0
        self._first = self._second = torch.zeros(0)

    @property
    def trainable(self) -> list[nn.Parameter]:
        """The parameters that are learned, in order."""
        return [parameter for parameter in self._parameters if parameter.requires_grad]

    def step(self, weights: Tensor, gradient: Tensor) -> None:
        """Change the weights in place, by their gradient; both of shape (N,)."""
        self._follow(weights)
        group, first, second = self.param_groups[0], self._first, self._second
        beta1, beta2 = group["betas"]
        self._steps += 1
        first.lerp_(gradient, 1.0 - beta1)
        second.mul_(beta2).addcmul_(gradient, gradient, value=1.0 - beta2)
        bias1, bias2 = 1.0 - beta1**self._steps, 1.0 - beta2**self._steps
        deviation = (second.sqrt() / math.sqrt(bias2)).add_(group["eps"])
        if group["weight_decay"]:
            weights.mul_(1.0 - group["lr"] * group["weight_decay"])
        weights.addcdiv_(first, deviation, value=-group["lr"] / bias1)

    def state_dict(self) -> dict[str, Any]:
        """The state in the layout of `torch.optim.AdamW`: by the number of the parameter."""
        sizes = [self._parameters[number].numel() for number in self._numbers]
        averages = zip(self._first.split(sizes), self._second.split(sizes), strict=True)
        state = {
            number: {
                "step": torch.tensor(float(self._steps)),
                "exp_avg": first.view_as(self._parameters[number]).clone(),
                "exp_avg_sq": second.view_as(self._parameters[number]).clone(),
            }
            for number, (first, second) in zip(self._numbers, averages, strict=True)
        }
        numbers = list(range(len(self._parameters)))
        return {"state": state, "param_groups": [{**self.param_groups[0], "params": numbers}]}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Continue from a state of this layout."""
        (group,) = state_dict["param_groups"]
        self.param_groups = [{**self.param_groups[0], **group, "params": self._parameters}]
        self._load(state_dict["state"], sorted(state_dict["state"]))

    @property
    def _parameters(self) -> list[nn.Parameter]:
        parameters: list[nn.Parameter] = self.param_groups[0]["params"]
        return parameters

    def _follow(self, weights: Tensor) -> None:
        """Have averages of what is trainable now, where it is now."""
        numbers = [number for number, each in enumerate(self._parameters) if each.requires_grad]
        if numbers != self._numbers:
            self._load(self.state_dict()["state"], numbers)
        self._first, self._second = self._first.to(weights), self._second.to(weights)

    def _load(self, state: Mapping[int, Mapping[str, Tensor]], numbers: list[int]) -> None:
        """Averages of these parameters, 0 of those without."""
        self._numbers = numbers
        self._steps = max((int(each["step"]) for each in state.values()), default=0)

        def average(name: str) -> Tensor:
            parts = [
                state[number][name].detach().reshape(-1)
                if number in state
                else torch.zeros_like(self._parameters[number]).detach().reshape(-1)
                for number in numbers
            ]
            return torch.cat(parts) if parts else torch.zeros(0)

        self._first, self._second = average("exp_avg"), average("exp_avg_sq")
