"""Results of long experiments: each piece is kept as soon as it is measured."""

import json
import multiprocessing
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from grpo_gym.storage.files import write_atomic
from grpo_gym.storage.processes import stop_at_once


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
        context = multiprocessing.get_context("spawn")
        pool = ProcessPoolExecutor(processes, context, max_tasks_per_child=1)
        try:
            errors = self._collect({pool.submit(each): key for key, each in missing.items()})
        except BaseException:
            # Somebody has interrupted, or nothing can be kept: the rest would be work for nothing.
            stop_at_once(pool)
            raise
        pool.shutdown()
        if errors:
            raise errors[0]

    def _collect(self, keys: Mapping[Future[Any], str]) -> list[BaseException]:
        """Keep what is measured as it comes; what failed instead."""
        errors = []
        for future in as_completed(keys):
            error = future.exception()
            if error is not None:
                self.report(f"{keys[future]}: {error!r}")
                errors.append(error)
            else:
                self._keep(keys[future], future.result())
                self.report(f"{keys[future]}: done")
        return errors

    def _keep(self, key: str, value: Any) -> None:
        self.values[key] = value
        write_atomic(self.path, json.dumps(self.values, indent=1).encode() + b"\n")
