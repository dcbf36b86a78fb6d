"""A policy's weights with its card as a .safetensors file, which holds no code."""

import numpy as np

from grpo_gym.inference.card import CARD_KEY, Card, card_to_text
from grpo_gym.policies.network import Policy
from grpo_gym.settings import ConfigError


def safetensors_bytes(policy: Policy, card: Card) -> bytes:
    """The file of a policy: weights by the names they have in torch.

    Raises:
        ConfigError: If the package is missing, or a weight is no dense tensor.
    """
    try:
        from safetensors.numpy import save
    except ModuleNotFoundError as error:
        raise ConfigError(
            "a .safetensors file needs the package safetensors: pip install 'grpo-gym[export]'"
        ) from error
    weights = {
        name: np.asarray(tensor.detach().cpu().numpy(), order="C")
        for name, tensor in policy.state_dict().items()
    }
    content: bytes = save(weights, {CARD_KEY: card_to_text(card)})
    return content
