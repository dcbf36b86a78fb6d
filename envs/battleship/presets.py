"""Settings of the Battleship game, and the named boards."""

from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field

from grpo_gym.envs.arguments import check_preset
from grpo_gym.settings import (
    ConfigError,
    Flag,
    Integer,
    NonNegative,
    checked_dataclass,
    from_mapping,
)

MAX_SIDE = 16
_LENGTH = Annotated[Integer, Field(ge=1, le=MAX_SIDE)]
_SIDE = Annotated[Integer, Field(ge=1, le=MAX_SIDE)]


@checked_dataclass
class BattleshipConfig:
    """Rules of the game, what is observed, and what is rewarded."""

    board_size: tuple[_SIDE, _SIDE] = (10, 10)
    """Rows and columns."""
    fleet: tuple[_LENGTH, ...] = (5, 4, 3, 3, 2)
    """Lengths of the ships (default: Hasbro's)."""
    allow_touch: Flag = True
    """Whether ships may lie side by side; if not, corners may not touch either."""
    announce_sunk: Flag = True
    """Whether a shot that sinks a ship says so, and which cells that ship covered."""
    placement: Literal["uniform", "microgrpo"] = "uniform"
    """"uniform": every legal board is equally likely. "microgrpo": as in the program of that name,
    whose ships of length n begin in the first rows - n + 1 rows and columns - n + 1 columns,
    whichever way they lie; so the last cell is always water."""
    observation: Literal["planes", "planes_density", "compact", "flat"] = "planes"
    """"planes": one-hot planes of unknown, missed, hit and sunk cells, and of the lengths afloat.
    "planes_density": also the number of placements that cover each cell. "compact": one plane of 0
    (unknown), -1 (miss) and 1 (hit). "flat": the planes as a vector, one number per length."""
    reward: Literal["score", "shots", "hits"] = "score"
    """"score": at the end 1 - misses / (cells - ship cells + 1), as in microGRPO. "shots": -1 a
    shot. "hits": a hit is worth 1 / ship cells, a miss -1 / water cells; 1 a perfect game."""
    hit_bonus: NonNegative = 0.0
    """Added to the reward of each hit. Without discount everybody who wins gets the same in all, so
    the best play stays the best, but what comes after a shot depends less on what had been found
    before."""
    mask_repeats: Flag = True
    """Whether `info["action_mask"]` forbids cells that were shot at before."""
    repeat_penalty: NonNegative = 1.0
    """What a shot at a known cell costs on top; it changes nothing, and counts as a step."""

    def __post_init__(self) -> None:
        rows, columns = self.board_size
        if not self.fleet:
            raise ConfigError("fleet must have at least one ship, got none")
        longest = max(rows, columns) if self.placement == "uniform" else min(rows, columns)
        if max(self.fleet) > longest:
            raise ConfigError(
                f"fleet must fit on a board of {rows} x {columns} cells, got a ship of length "
                f"{max(self.fleet)}: the longest that fits has {longest}"
            )
        if sum(self.fleet) > self.cells:
            raise ConfigError(
                f"fleet must fit on a board of {self.cells} cells, got ships of {sum(self.fleet)}"
            )

    @property
    def cells(self) -> int:
        """Number of cells, A."""
        return self.board_size[0] * self.board_size[1]

    @property
    def ship_cells(self) -> int:
        """Number of cells that ships cover."""
        return sum(self.fleet)

    @property
    def lengths(self) -> tuple[int, ...]:
        """Different lengths of ships, ascending."""
        return tuple(sorted(set(self.fleet)))


_MICROGRPO: dict[str, Any] = {
    "board_size": (5, 5),
    "fleet": (2, 3, 4),
    "announce_sunk": False,
    "observation": "compact",
}
PRESETS: dict[str, dict[str, Any]] = {
    # Hasbro's game; uniformly random boards.
    "classic-10x10": {"reward": "shots"},
    # The same, and the policy is shown how many placements of the ships afloat cover each cell.
    "classic-10x10-density": {"reward": "shots", "observation": "planes_density"},
    # github.com/superlinear-ai/microGRPO, like for like.
    "microgrpo-5x5": {**_MICROGRPO, "placement": "microgrpo"},
    # The same game on uniformly random boards.
    "uniform-5x5": _MICROGRPO,
    # Hasbro's fleet where ships keep their distance.
    "no-touch-10x10": {"reward": "shots", "allow_touch": False},
    # The fleet and the rule usual in Russia.
    "russian-10x10": {
        "fleet": (4, 3, 3, 2, 2, 2, 1, 1, 1, 1),
        "reward": "shots",
        "allow_touch": False,
    },
}
"""Each is the settings of a named board."""


def make_config(preset: str = "classic-10x10", **overrides: Any) -> BattleshipConfig:
    """The settings of a preset with any of them replaced.

    Args:
        preset: A name from `PRESETS`.
        **overrides: Fields of `BattleshipConfig`; `board_size` may be one number for a square.

    Raises:
        ConfigError: If a name is unknown or a value makes no sense.
    """
    check_preset(preset, PRESETS)
    side = overrides.get("board_size")
    if isinstance(side, (int, np.integer)) and not isinstance(side, bool):
        overrides = {**overrides, "board_size": (int(side), int(side))}
    return from_mapping(
        BattleshipConfig, {**PRESETS[preset], **overrides}, f"Battleship ({preset})"
    )
