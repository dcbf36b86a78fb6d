"""Results of long experiments: each piece is kept as soon as it is measured."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from grpo_gym.files import write_atomic


class Results:
    """A JSON file of finished measurements, so that an interrupted experiment can go on.

    Attributes:
        values: What was measured, by key.
    """

    def __init__(self, path: Path, report: Callable[[str], None]) -> None:
        """Read what is there.

        Args:
            path: The file; it need not exist yet.
            report: Called with a line about each measurement.
        """
        self.path = path
        self.report = report
        self.values: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}

    def measure(self, key: str, measurement: Callable[[], Any]) -> Any:
        """The measurement of a key, made now unless it is there already."""
        if key not in self.values:
            self.values[key] = measurement()
            write_atomic(self.path, json.dumps(self.values, indent=1).encode() + b"\n")
        self.report(f"{key}: done")
        return self.values[key]
