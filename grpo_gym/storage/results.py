"""Results of long experiments, saved measurement by measurement."""

import json
import multiprocessing
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from grpo_gym.storage.files import write_atomic
from grpo_gym.storage.processes import stop_at_once


class Results:
    """A JSON file of finished measurements, so that an interrupted experiment can resume.

    Attributes:
        values: Measurements by key.
    """

    def __init__(self, path: Path, report: Callable[[str], None]) -> None:
        """Read the file, which need not exist; `report` gets a line for each measurement."""
        self.path = path
        self.report = report
        self.values: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}

    def measure(self, key: str, measurement: Callable[[], Any]) -> Any:
        """The measurement of a key, made now if it is missing."""
        if key not in self.values:
            self._keep(key, measurement())
        self.report(f"{key}: done")
        return self.values[key]

    def measure_all(self, measurements: Mapping[str, Callable[[], Any]], processes: int) -> None:
        """Make missing measurements in parallel, each in a fresh process.

        If some fail, the others are still made and kept; then the first error is raised.

        Args:
            measurements: By key; picklable, as partials of a module's functions are.
            processes: Number of measurements at a time.
        """
        missing = {key: each for key, each in measurements.items() if key not in self.values}
        context = multiprocessing.get_context("spawn")
        pool = ProcessPoolExecutor(processes, context, max_tasks_per_child=1)
        errors = []
        try:
            keys = {pool.submit(each): key for key, each in missing.items()}
            for future in as_completed(keys):
                key, error = keys[future], future.exception()
                if error is None:
                    self._keep(key, future.result())
                else:
                    errors.append(error)
                self.report(f"{key}: {'done' if error is None else repr(error)}")
        except BaseException:
            # Interrupted, or the file cannot be written: further results would be lost.
            stop_at_once(pool)
            raise
        pool.shutdown()
        if errors:
            raise errors[0]

    def _keep(self, key: str, value: Any) -> None:
        self.values[key] = value
        write_atomic(self.path, json.dumps(self.values, indent=1).encode() + b"\n")
