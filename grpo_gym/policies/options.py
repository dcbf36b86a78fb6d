"""Options of the built-in policies: one small class per network.

`trainers.config.GRPOConfig` inherits from all of them, so their fields have flat names there.
"""

from typing import Annotated, Literal

from pydantic import Field

from grpo_gym.settings import ConfigError, Count, Flag, Natural, Number, checked_dataclass

_LogStd = Annotated[Number, Field(ge=-20, le=20)]
Activation = Literal["tanh", "relu", "silu"]


@checked_dataclass
class PolicyOptions:
    """What every policy has: how it sees observations, and how it explores with Box actions."""

    frame_history: Count = 1
    """Observations that the policy sees at once, the newest last."""
    normalise_observations: Flag | None = None
    """Normalise observations by their running mean and standard deviation. None: every policy does
    except `board` and `servers`; `cnn` and `combined` leave out images of 36 x 36 pixels or more,
    and divide those of type uint8 by 255."""
    initial_log_std: _LogStd = -0.5
    """Initial log standard deviation of Box actions, in units of half the action range."""
    log_std_bounds: tuple[_LogStd, _LogStd] = (-3.0, 0.5)
    """Bounds of the log standard deviation, which no critic keeps from diverging."""

    def __post_init__(self) -> None:
        self._check_network()

    def _check_network(self) -> None:
        low, high = self.log_std_bounds
        if not low < self.initial_log_std < high:
            raise ConfigError(
                f"initial_log_std must lie inside log_std_bounds {self.log_std_bounds}, got "
                f"{self.initial_log_std}"
            )


@checked_dataclass
class MLPOptions(PolicyOptions):
    """Options of the policy `mlp`."""

    hidden_sizes: tuple[Count, ...] = (64, 64)
    """Width of each hidden layer of `mlp`, and of those after the recurrence of `gru` and the
    encoders of `combined`."""
    activation: Activation = "tanh"
    """Activation function of `mlp`, and of those layers of `combined`."""


@checked_dataclass
class CNNOptions(PolicyOptions):
    """Options of the policy `cnn`."""

    convolutions: Literal["nature", "small"] | None = None
    """Layers that read the images of `cnn` and `combined`: those of the Nature network, or two of
    3 x 3. None: "nature" from 36 x 36 pixels on."""
    channels_last: Flag | None = None
    """Whether the last of an image's three axes is that of its channels, and not the first. None:
    it is the first if no other is shorter."""


@checked_dataclass
class CombinedOptions(CNNOptions, MLPOptions):
    """Options of the policy `combined`."""


@checked_dataclass
class BoardOptions(PolicyOptions):
    """Options of the policy `board`."""

    channels: Count = 32
    """Channels of each hidden layer of `board`."""
    blocks: Natural = 2
    """Residual blocks of `board`, each with two 3 x 3 convolutions."""


@checked_dataclass
class ServersOptions(PolicyOptions):
    """Options of the policy `servers`."""

    server_width: Count = 32
    """Width of each hidden layer of `servers`."""
    shared_features: Natural | None = None
    """Features after the rows of all servers, for `servers`. None: as few as can be, which is too
    few for two servers or more if there are no more servers than shared features."""


@checked_dataclass
class GRUOptions(PolicyOptions):
    """Options of the policy `gru`."""

    gru_width: Count = 64
    """Width of the recurrent layer of `gru`."""
    hidden_sizes: tuple[Count, ...] = (64, 64)
    """Width of each layer between the recurrence and the outputs."""


@checked_dataclass
class TemporalOptions(PolicyOptions):
    """Options of the policy `temporal`."""

    lstm_width: Count = 128
    """Width of the recurrence and of all tokens of `temporal`."""
    lstm_layers: Count = 2
    """Layers of the recurrence of `temporal`."""
    attention_heads: Count = 4
    """Heads of the attention over the recurrence's outputs; must divide `lstm_width`."""
    transformer_layers: Natural = 1
    """Layers of the transformer encoder of `temporal`; 0: none. The published design has 4."""
    transformer_heads: Count = 8
    """Heads of each transformer layer; must divide `lstm_width`."""
    feedforward_width: Count = 256
    """Width between the two linear layers of each transformer layer."""

    def _check_network(self) -> None:
        super()._check_network()
        for name in ("attention_heads", "transformer_heads"):
            if self.lstm_width % getattr(self, name):
                raise ConfigError(
                    f"{name} must divide lstm_width {self.lstm_width}, got {getattr(self, name)}: "
                    "choose a divisor of it"
                )


OPTIONS_OF: dict[str, type[PolicyOptions]] = {
    "linear": PolicyOptions,
    "mlp": MLPOptions,
    "cnn": CNNOptions,
    "combined": CombinedOptions,
    "board": BoardOptions,
    "servers": ServersOptions,
    "gru": GRUOptions,
    "temporal": TemporalOptions,
}
"""The options of each built-in policy."""


@checked_dataclass
class NetworkConfig(CombinedOptions, GRUOptions, BoardOptions, ServersOptions, TemporalOptions):
    """The options of all built-in policies, and what training does with symmetric ones."""

    augment_symmetries: Flag = False
    """Rotate and mirror each minibatch's boards at random, so that what is learned on one board
    holds on all 8. Only for policies that know their symmetries, such as `board`."""
