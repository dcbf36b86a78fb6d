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
    """A native environment; it names its package, so that a descriptor imports nothing heavy."""

    env_id: str
    """Id at Gymnasium, such as "Name-v0"."""
    package: str
    """Package with the modules `env` (class NameEnv), `vector_env` (class NameVectorEnv), `presets`
    (`PRESETS` and `make_config`) and `baselines` (`BASELINES` and `make_baseline`)."""
    has_figures: bool = False
    """Whether it has a module `figures` too, with `snapshot` and `draw` for figures of episodes."""
    episode_length_name: str
    """Attribute of the config with the largest number of steps per episode."""
    table_columns: Mapping[str, tuple[str, float]] = field(default_factory=dict)
    """Infos with a column in the closing table: title, and factor to the title's unit."""
    demonstrations: Mapping[str, int] = field(default_factory=dict)
    """Presets in which online GRPO shows its policy as it learns: decisions by default."""

    @property
    def entry_point(self) -> str:
        """Class of the single environment, "module:Class"."""
        return f"{self.package}.env:{self.env_id.partition('-')[0]}Env"

    @property
    def vector_entry_point(self) -> str:
        """Class of the vector environment, "module:Class"."""
        return f"{self.package}.vector_env:{self.env_id.partition('-')[0]}VectorEnv"

    @property
    def preset_names(self) -> tuple[str, ...]:
        """Names of the presets."""
        return tuple(import_module(f"{self.package}.presets").PRESETS)

    @property
    def baselines(self) -> Any:
        """The module of baselines."""
        return import_module(f"{self.package}.baselines")

    @property
    def figures(self) -> Any:
        """The module of figures, or None."""
        return import_module(f"{self.package}.figures") if self.has_figures else None

    def episode_length(self, config: Any) -> int:
        """Largest number of steps per episode under a config."""
        return int(getattr(config, self.episode_length_name))
