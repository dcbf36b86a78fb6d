"""A trained policy that runs on NumPy alone: `linear`, `mlp` and `servers`.

    policy = NumpyPolicy.load("policy.safetensors")
    action, state = policy.predict(observation)

Shapes: D features of an observation, A choices, B observations, H frames of a history.
"""

from os import PathLike
from typing import Any

import gymnasium as gym
import numpy as np

from grpo_gym.inference.files import PolicyFile, read_policy
from grpo_gym.inference.heads import ChoiceHead, make_head
from grpo_gym.inference.networks import Network, PlainNetwork, ServersNetwork
from grpo_gym.inference.spaces import space_from_json
from grpo_gym.rollouts.policy_inputs import features_of, masks_of
from grpo_gym.rollouts.rows import row_format
from grpo_gym.rollouts.spaces import is_finite, stack_frames
from grpo_gym.settings import ConfigError
from grpo_gym.storage.container import refuse

KINDS = ("linear", "mlp", "servers")
"""The networks that run on NumPy."""


class NumpyPolicy:
    """A trained policy, read from a file. Calls may come from several threads.

    Attributes:
        kind: Its network: "linear", "mlp" or "servers".
        card: What is known of it: environment, spaces, options, training.
        observation_space: Of one environment.
        action_space: Of one environment.
    """

    def __init__(self, file: PolicyFile, seed: int | None = None) -> None:
        """Build the policy of a file; `load` is the usual way.

        Raises:
            Exception: Of any kind, if the file's content does not fit together.
        """
        card = file.card
        self.kind = str(card["policy"])
        self.card: dict[str, Any] = {**card}
        self.observation_space = space_from_json(card["observation_space"])
        self.action_space = space_from_json(card["action_space"])
        self._rows = row_format(self.observation_space)
        self._frame_size = self._rows.num_features
        self._dtype = np.result_type(np.float32, *[kind for kind, _ in self._rows.runs])
        self._frame_history = int(card["options"]["frame_history"])
        if self._frame_history < 1:
            raise ValueError("frame_history must be >= 1")
        self._head = make_head(self.action_space, card["options"], file.weights)
        self._network = self._make_network(file)
        self._generator = np.random.default_rng(seed)
        # Kernels are compiled, or read from the disk, now and not while a first request waits.
        nothing = np.zeros((1, self._frame_history * self._frame_size), self._dtype)
        self._head.actions(self._network(nothing), None, None)

    @classmethod
    def load(cls, path: str | PathLike[str], seed: int | None = None) -> "NumpyPolicy":
        """Read a policy from a file that `model.export` wrote, or from a checkpoint.

        Args:
            path: A .safetensors file, or a .ckpt file.
            seed: Of samples; None: from the operating system.

        Raises:
            CheckpointError: If the file is missing, damaged or not ours, or its network does not
                run on NumPy.
        """
        file = read_policy(path)
        kind = file.card["policy"]
        if kind not in KINDS:
            refuse(path, f"policy must be one of {', '.join(KINDS)} without torch, got {kind!r}: "
                   "export it to an .onnx file")  # fmt: skip
        try:
            return cls(file, seed)
        except Exception as error:  # a forged file may raise anything
            refuse(path, f"its content does not fit together ({error}): use another copy", error)

    def scores(self, observation: np.ndarray, mask: np.ndarray | None = None) -> np.ndarray:
        """Log-probabilities of all choices at one observation, shape (A,), float32.

        Args:
            observation: Features, shape (D,), of all H frames if there are several, oldest first;
                for `servers` of any number of servers.
            mask: Legal choices, shape (A,), bool.

        Raises:
            ConfigError: If actions are no choices, a shape is wrong, the observation is not finite,
                or the mask allows nothing.
            FloatingPointError: If the outputs are not finite.
        """
        if not isinstance(self._head, ChoiceHead):
            raise ConfigError(f"actions must be choices, got {self.action_space}: use predict")
        self._check_size(observation)
        features = np.ascontiguousarray(observation, self._dtype)
        if not is_finite(features):
            raise ConfigError("observation must be finite: look at what measures it")
        outputs = self._outputs(features[None])
        if mask is not None:
            if mask.shape != outputs.shape[1:] or mask.dtype != np.bool_:
                raise ConfigError(
                    f"mask must be bool of shape {outputs.shape[1:]}, got {mask.dtype} of shape "
                    f"{mask.shape}"
                )
            if not mask.any():
                raise ConfigError("mask must allow an action, got none")
        scores: np.ndarray = self._head.log_probs(outputs, None if mask is None else mask[None])[0]
        return scores

    def predict(
        self,
        observation: Any,
        state: Any = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = True,
        action_masks: np.ndarray | None = None,
    ) -> tuple[np.ndarray, Any]:
        """Choose an action, as `GRPO.predict` and Stable-Baselines3's models do.

        Args:
            observation: One observation or a batch of them, as the environment gives it.
            state: The state that the last call returned, None at first; a policy without a memory
                passes it through.
            episode_start: Where an episode begins, shape (B,), bool: earlier observations are
                forgotten there.
            deterministic: The most probable action instead of a sample.
            action_masks: Legal actions, shape (A,) or (B, A).

        Returns:
            An action, or a batch of actions, and the state for the next call.

        Raises:
            ConfigError: If the observation is not in the space or not finite, or a mask allows
                nothing.
            FloatingPointError: If the outputs are not finite.
        """
        observed, acts = self._spaces_of(observation)
        rows, many = features_of(observed, observation)
        starts = None if episode_start is None else np.atleast_1d(episode_start).astype(np.bool_)
        masks = None
        if action_masks is not None:
            masks = masks_of(acts, action_masks, len(rows))
        if self._frame_history > 1:
            state = stack_frames(state, rows, self._frame_history, starts)
            rows = state.reshape(-1, state.shape[2])
        features = np.ascontiguousarray(self._rows.features(rows))
        if self._frame_history > 1:
            features = features.reshape(len(state), -1)
        generator = None if deterministic else self._generator
        actions = self._head.actions(self._outputs(features), masks, generator)
        return (actions if many else actions[0]), state

    def _spaces_of(self, observation: Any) -> tuple[gym.Space[Any], gym.Space[Any]]:
        """The spaces of an observation, or of a batch: `servers` takes any number of servers."""
        if isinstance(self._network, ServersNetwork):
            shape = np.shape(observation)
            own = self.observation_space.shape or ()
            for found in (shape, shape[1:]):
                servers = self._network.servers(int(np.prod(found)))
                if len(found) == len(own) and servers is not None and found != own:
                    space = gym.spaces.Box(-np.inf, np.inf, found, self._rows.dtype.type)
                    return space, gym.spaces.Discrete(servers)
        return self.observation_space, self.action_space

    def _outputs(self, features: np.ndarray) -> np.ndarray:
        outputs = self._network(features)
        if not is_finite(outputs):
            raise FloatingPointError(
                "the policy's outputs must be finite, got nan or inf: an observation is too large "
                "for it"
            )
        return outputs

    def _check_size(self, observation: np.ndarray) -> None:
        size, left = divmod(observation.size, self._frame_history)
        known = size == self._frame_size
        if isinstance(self._network, ServersNetwork):
            known = self._network.servers(size) is not None
        if observation.ndim != 1 or left or not known:
            raise ConfigError(
                f"observation must have shape ({self._frame_history * self._frame_size},), got "
                f"{observation.shape}"
            )

    def _make_network(self, file: PolicyFile) -> Network:
        """The network of a file.

        Raises:
            ValueError: If the weights do not fit the spaces.
        """
        options, frames, size = file.card["options"], self._frame_history, self._frame_size
        network: PlainNetwork | ServersNetwork
        if self.kind == "servers":
            if not isinstance(self.action_space, gym.spaces.Discrete):
                raise ValueError("actions must be Discrete, one for each server")
            servers = int(self.action_space.n)
            shared = options["shared_features"]
            shared = size % servers if shared is None else int(shared)
            network = ServersNetwork(file.weights, (size - shared) // servers, shared, frames)
            if network.servers(size) != servers:
                raise ValueError(f"observations must have {servers} rows of equal length")
            return network
        activation = options["activation"] if self.kind == "mlp" else "tanh"
        network = PlainNetwork(file.weights, frames * size, activation)
        if network.outputs != sum(self._head.sizes):
            raise ValueError(f"network must have {sum(self._head.sizes)} outputs")
        return network
