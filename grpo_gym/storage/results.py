"""Results of long experiments, saved measurement by measurement."""

import json
from collections.abc import Callable, Mapping
from concurrent.futures import as_completed
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from grpo_gym.storage.claims import claim_file
from grpo_gym.storage.files import write_atomic
from grpo_gym.storage.processes import stop_at_once, worker_pool


class Results(AbstractContextManager["Results"]):
    """A JSON file of finished measurements, so that an interrupted experiment can resume.

    The file is claimed until `close`, the end of a `with` statement, or the end of the process:
    of two experiments at once, one would undo what the other has kept.

    Attributes:
        values: Measurements by key.
    """

    def __init__(self, path: Path, report: Callable[[str], None]) -> None:
        """Claim and read the file, which need not exist.

        Args:
            path: The file.
            report: Gets a line for each measurement.

        Raises:
            InUseError: If another process has claimed it.
            OSError: If it cannot be written.
            ValueError: If it is not a JSON object.
        """
        self.path = path
        self.report = report
        self._claim = claim_file(path)
        try:
            values = json.loads(path.read_text()) if path.exists() else {}
            if not isinstance(values, dict):
                raise ValueError(f"JSON that is no object: {values!r:.60}")
            self.values: dict[str, Any] = values
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Let others have the file."""
        self._claim.release()

    def __exit__(self, *_: object) -> None:
        self.close()

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
        pool = worker_pool(processes, fresh=True)
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
