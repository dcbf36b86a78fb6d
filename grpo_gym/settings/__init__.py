"""Settings: frozen dataclasses with constraints, YAML files, errors."""
