"""Results of long experiments: each piece is kept as soon as it is measured."""

import json
import multiprocessing
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
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
            self._keep(key, measurement())
        self.report(f"{key}: done")
        return self.values[key]

    def measure_all(self, measurements: Mapping[str, Callable[[], Any]], processes: int) -> None:
        """Make the measurements that are missing, so many at a time.

        What else was measured is kept when one fails, whose error is raised at the end.

        Args:
            measurements: By key; each can be pickled, as partials of a module's functions can.
            processes: Each measures in a fresh process of its own.
        """
        missing = {key: each for key, each in measurements.items() if key not in self.values}
        with ProcessPoolExecutor(
            processes, multiprocessing.get_context("spawn"), max_tasks_per_child=1
        ) as pool:
            keys = {pool.submit(measurement): key for key, measurement in missing.items()}
            errors = []
            for future in as_completed(keys):
                error = future.exception()
                if error is not None:
                    self.report(f"{keys[future]}: {error!r}")
                    errors.append(error)
                else:
                    self._keep(keys[future], future.result())
                    self.report(f"{keys[future]}: done")
        if errors:
            raise errors[0]

    def _keep(self, key: str, value: Any) -> None:
        self.values[key] = value
        write_atomic(self.path, json.dumps(self.values, indent=1).encode() + b"\n")
