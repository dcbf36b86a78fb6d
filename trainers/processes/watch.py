"""Noticing that another process has failed, is lost, or hangs.

A thread of each process counts beats in the store that all have in common, and reads those of the
others. So it does not matter how long training takes between two exchanges: only a process whose
threads all stand still is silent.
"""

import os
import platform
import sys
import time
from contextlib import suppress
from threading import Event, Thread

from torch.distributed import Store

from grpo_gym.trainers.processes.errors import LastWords, ProcessError

BEAT_SECONDS = 1.0
SILENT_SECONDS = 30.0
"""Time without a beat of another process after which that one is lost."""
LOOK_SECONDS = 1.0
"""How often a process that waits for others looks at what its watch has found."""
GRACE_SECONDS = 15.0
"""How long training may take to notice what the watch has found, before the watch ends it."""
_BROKEN_SECONDS = 4.0
"""The same once a connection broke: the silent one is then the one that broke it."""
_PATIENCE_SECONDS = 3 * _BROKEN_SECONDS
_LONGEST_BEAT_SECONDS = 2.0
"""What a beat counts at most, however long it took: this process may have been stopped itself."""


class Watch:
    """Watches the other processes until it is stopped.

    Attributes:
        error: What happened to one of them; None while all is well.
    """

    def __init__(
        self, store: Store, rank: int, size: int, *, speaks: bool, first_here: bool
    ) -> None:
        """Tell the others of this process; `start` when all have.

        Args:
            store: What all have in common; used by this watch alone.
            rank: Of this process.
            size: Number of processes.
            speaks: Whether to report errors when process 0 no longer can.
            first_here: Whether it is the first one on its machine, which speaks when the machine
                of process 0 cannot be reached.
        """
        self.error: BaseException | None = None
        self.reports = rank == 0
        self._store, self._rank, self._size = store, rank, size
        self._speaks, self._first_here = speaks, first_here
        self._others = [other for other in range(size) if other != rank]
        self._silences = dict.fromkeys(self._others, 0.0)
        self._seen = dict.fromkeys(self._others, b"")
        self._limit = SILENT_SECONDS
        self._beats, self._looks, self._last = 0, 0, time.monotonic()
        self._noticed, self._stopped = Event(), Event()
        self._thread = Thread(target=self._run, name="watch of the processes", daemon=True)
        store.set(f"name/{rank}", f"{os.getpid()} on {platform.node()}")
        store.set(f"words/{rank}", "")
        store.set(f"beat/{rank}", str(self._beats))

    def start(self) -> None:
        """Begin to watch: all processes have told of themselves."""
        self._names = {
            other: f"process {other} of {self._size} ({self._store.get(f'name/{other}').decode()})"
            for other in self._others
        }
        self._thread.start()

    def stop(self) -> None:
        """Watch no more."""
        self._stopped.set()

    def check(self) -> None:
        """Raise what happened to another process, if anything did.

        Who waits for others calls it every `LOOK_SECONDS`: it notices as well that the store does
        not answer, for which the thread would wait for ever.
        """
        self._looks += 1
        if self.error is None and self._looks * LOOK_SECONDS > SILENT_SECONDS:
            self._notice_unreachable("it does not answer")
        if self.error is not None:
            raise self.error

    def explain(self, broken: Exception) -> BaseException:
        """What happened to the process whose connection broke."""
        self._limit = _BROKEN_SECONDS
        self._noticed.wait(_PATIENCE_SECONDS)
        return self.error or ProcessError(f"the connection to another process broke: {broken}")

    def say(self, error: BaseException) -> None:
        """Leave the others with last words, if the store takes them within seconds."""
        words = LastWords.about(error, self._rank).to_text()
        speaking = Thread(target=self._write, args=(words,), daemon=True)
        speaking.start()
        speaking.join(_BROKEN_SECONDS)

    def _write(self, words: str) -> None:
        with suppress(Exception):  # the store may be gone, and the error is what counts
            self._store.set(f"words/{self._rank}", words)

    def _run(self) -> None:
        while not self._stopped.wait(BEAT_SECONDS):
            try:
                self._beat()
            except Exception as error:  # of the store: RuntimeError, or DistStoreError
                self._notice_unreachable(str(error))
            if self.error is not None:
                if not self._stopped.wait(GRACE_SECONDS):
                    self._end()
                return

    def _beat(self) -> None:
        """Count a beat of this process, and look for those of the others."""
        now = time.monotonic()
        passed, self._last = min(now - self._last, _LONGEST_BEAT_SECONDS), now
        self._beats += 1
        self._store.set(f"beat/{self._rank}", str(self._beats))
        beats = self._store.multi_get([f"beat/{other}" for other in self._others])
        words = self._store.multi_get([f"words/{other}" for other in self._others])
        self._looks = 0
        has_followers = any(words)
        for other, beat, said in zip(self._others, beats, words, strict=True):
            if said and (error := LastWords.from_text(said).error) is not None:
                self._notice(error, False)
                return
            if not said:
                silence = self._silences[other] + passed
                self._silences[other] = silence if beat == self._seen[other] else 0.0
                self._seen[other] = beat
        limit = _BROKEN_SECONDS if has_followers else self._limit
        silent = [other for other in self._others if self._silences[other] >= limit]
        if silent:
            lost = ", ".join(self._names[other] for other in silent)
            self._notice(
                ProcessError(
                    f"{lost} was lost: it was killed, perhaps for memory, or hangs, or its machine "
                    "cannot be reached"
                ),
                self._speaks and set(range(self._rank)) <= set(silent),
            )

    def _notice_unreachable(self, reason: str) -> None:
        lost = f"process 0 of {self._size}, or its machine, cannot be reached: {reason}"
        self._notice(ProcessError(lost), self._speaks and self._first_here)

    def _notice(self, error: BaseException, reports: bool) -> None:
        self.reports = self.reports or reports
        self.error = error
        self._noticed.set()

    def _end(self) -> None:
        """End the process while its main thread is in somebody's code that takes its time."""
        if self.reports:
            with suppress(OSError, ValueError):
                print(f"error: {self.error}", file=sys.stderr, flush=True)
        os._exit(1)
