"""What the rest of the package needs to know about a native environment, declared in one place.

Each environment's package has a `descriptor.py` with a `DESCRIPTOR`, and
`grpo_gym/registration.py` lists the packages.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any


@dataclass(frozen=True, kw_only=True)
class EnvironmentDescriptor:
    """A native environment; modules are names, so that a descriptor imports nothing heavy."""

    env_id: str
    """Id at Gymnasium."""
    entry_point: str
    """Class of the single environment, "module:Class"."""
    vector_entry_point: str
    """Class of the vector environment, "module:Class"."""
    presets_module: str
    """Module with `PRESETS`, settings by name, and `make_config`."""
    baselines_module: str
    """Module with `BASELINES` and `make_baseline`."""
    figures_module: str | None = None
    """Module with `snapshot` and `draw`, for figures of an episode; None: it has none."""
    episode_length_name: str
    """Attribute of the config with the largest number of steps per episode."""
    table_columns: Mapping[str, tuple[str, float]] = field(default_factory=dict)
    """Infos with a column in the closing table: title, and factor to the title's unit."""
    demonstrations: Mapping[str, int] = field(default_factory=dict)
    """Presets in which online GRPO shows its policy as it learns: decisions by default."""

    @property
    def preset_names(self) -> tuple[str, ...]:
        """Names of the presets."""
        return tuple(import_module(self.presets_module).PRESETS)

    @property
    def baselines(self) -> Any:
        """The module of baselines."""
        return import_module(self.baselines_module)

    @property
    def figures(self) -> Any:
        """The module of figures, or None."""
        return None if self.figures_module is None else import_module(self.figures_module)

    def episode_length(self, config: Any) -> int:
        """Largest number of steps per episode under a config."""
        return int(getattr(config, self.episode_length_name))
