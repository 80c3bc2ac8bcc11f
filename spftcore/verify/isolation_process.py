"""One worker process as its parent sees it: started, asked, watched, killed."""

from __future__ import annotations

import json
import mmap
import os
import select
import signal
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from spftcore.verify.native import attached_module
from spftcore.verify.outcomes import Status
from spftcore.verify.worker import DONE_AT, FLAG, READY, SHARED_BYTES, STOP_AT, STOPPED

# Not `-m`: the parent's import path holds in the child too, as it would with multiprocessing, and
# the caller's script is not imported, so it needs no `if __name__ == "__main__"`.
_BOOTSTRAP = (
    "import json, sys; settings = json.loads(sys.argv[1]); sys.path[:] = settings['path'];"
    "from spftcore.verify.worker import main; main(settings)"
)
_RUNNING = struct.Struct("<q16s")  # RunningQuery in csrc/executor.h
_TICK_MS = 20
_GRACE_SECONDS = 0.3  # past the time limit: the executor's own watchdog comes first
_START_SECONDS = 60.0
_SILENCE_SECONDS = 60.0  # without a running query: opening a file, judging
_STOP_SECONDS = 0.5  # from asking a worker to stop to killing it


class Stopped(Exception):
    """The batch was given up; the worker may be used again unless it is `ended`."""


@dataclass
class Death(Exception):
    """A worker that is no more.

    Attributes:
        message: what happened to it.
        query: digest of the query it was running; None when it ran none.
        status: what that query gets.
        log: the end of its error output.
    """

    message: str
    query: bytes | None
    status: Status
    log: str


class WorkerProcess:
    """A process that runs one request at a time.

    Args:
        settings: as `spftcore.verify.worker.main` takes them, less `parent`, `path` and `memory`.
        seconds: the time limit of one query.
    """

    def __init__(self, settings: dict[str, Any], seconds: float) -> None:
        self._seconds = seconds
        self._running_bytes = int(attached_module().RUNNING_QUERY_BYTES)
        size = self._running_bytes + SHARED_BYTES
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the process
        descriptor = os.memfd_create("spftcore-worker")
        try:
            os.ftruncate(descriptor, size)
            self._memory = mmap.mmap(descriptor, size)
            told = settings | {
                "parent": os.getpid(),
                "memory": descriptor,
                "path": [os.path.abspath(entry) for entry in sys.path],
            }
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-c", _BOOTSTRAP, json.dumps(told)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._log,
                pass_fds=(descriptor,),
                process_group=0,  # out of reach of the terminal's Ctrl-C
                # One arena: glibc reserves 64 MB of address space for each.
                env=os.environ
                | {"MALLOC_ARENA_MAX": "1", "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
            )
        finally:
            os.close(descriptor)
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._requests = self._process.stdin.fileno()
        self._answers = self._process.stdout.fileno()
        os.set_blocking(self._requests, False)
        os.set_blocking(self._answers, False)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def ended(self) -> bool:
        return self._process.poll() is not None

    @property
    def done(self) -> int:
        """Queries of the request under way that are done."""
        return int(FLAG.unpack_from(self._memory, self._running_bytes + DONE_AT)[0])

    def running(self) -> tuple[int, bytes]:
        """When the running query started (CLOCK_MONOTONIC, ns; 0: none runs) and its digest."""
        while True:
            started, digest = _RUNNING.unpack_from(self._memory)
            if _RUNNING.unpack_from(self._memory)[0] == started:
                return started, digest

    def wait_ready(self, stop: Callable[[], bool]) -> None:
        """Waits until it can be asked.

        Raises:
            Death: it ended, or was not ready in time.
            Stopped: `stop()` was true; the process is gone.
        """
        answer = self._converse(b"", len(READY), _START_SECONDS, stop)
        if answer != READY:
            raise self._die("did not start as a worker does")

    def ask(self, request: bytes, largest: int, queries: int, stop: Callable[[], bool]) -> bytes:
        """Sends a request and waits for the answer, watching the clock of each query.

        Args:
            request: a pickle.
            largest: bytes an honest answer may have.
            queries: how many it runs at most.
            stop: asked 50 times a second; True gives the request up.

        Raises:
            Death: it died, was killed, or gave no sensible answer.
            Stopped: `stop()` was true.
        """
        FLAG.pack_into(self._memory, self._running_bytes + STOP_AT, 0)
        FLAG.pack_into(self._memory, self._running_bytes + DONE_AT, 0)
        _RUNNING.pack_into(self._memory, 0, 0, bytes(16))
        seconds = queries * (self._seconds + _GRACE_SECONDS) + _SILENCE_SECONDS
        message = len(request).to_bytes(8, "little") + request
        answer = self._converse(message, largest, seconds, stop)
        if answer == STOPPED:
            raise Stopped
        return answer

    def _converse(
        self, message: bytes, largest: int, seconds: float, stop: Callable[[], bool]
    ) -> bytes:
        poll = select.poll()
        poll.register(self._answers, select.POLLIN)
        left = memoryview(message)
        if left:
            poll.register(self._requests, select.POLLOUT)
        received = bytearray()
        watch = _Watch(self, seconds)
        stopping_since: float | None = None
        while True:
            ready = dict(poll.poll(_TICK_MS))
            if self._answers in ready:
                # One full answer wins over whatever became of the worker since.
                closed = self._receive(received)
                if len(received) >= 8:
                    size = int.from_bytes(received[:8], "little")
                    if size > largest or len(received) > 8 + size:
                        raise self._die("gave an answer that cannot be")
                    if len(received) == 8 + size:
                        return bytes(received[8:])
                if closed:
                    raise self._die(None)
            if self._requests in ready:
                try:
                    left = left[os.write(self._requests, left[: 1 << 20]) :]
                except BlockingIOError:
                    pass
                except OSError:
                    raise self._die(None) from None
                if not left:
                    poll.unregister(self._requests)
            if self.ended and self._answers not in ready:
                raise self._die(None)  # somebody else holds the pipe open
            if stop():
                now = time.monotonic()
                stopping_since = stopping_since or now
                FLAG.pack_into(self._memory, self._running_bytes + STOP_AT, 1)
                if now - stopping_since > _STOP_SECONDS or not message:
                    self.end()
                    raise Stopped
            watch.look()

    def _receive(self, received: bytearray) -> bool:
        try:
            part = os.read(self._answers, 1 << 20)
        except BlockingIOError:
            return False
        received += part
        return not part

    def _overdue(self, started: int, digest: bytes, seconds: float) -> Death:
        """Kills it because its query does not stop; the query is to blame if it still runs."""
        self.end()
        if self.running() != (started, digest):
            return Death("was killed between two queries", None, Status.CRASHED, "")
        return Death(
            f"killed after {seconds:.1f} s: it did not stop by itself",
            digest,
            Status.TIME_BUDGET,
            "",
        )

    def _die(self, message: str | None) -> Death:
        """What its death says; kills it when a message tells that it is to die."""
        if message is None:
            try:
                code = self._process.wait(5)
            except subprocess.TimeoutExpired:  # it closed its pipe and lives on
                message = "closed its pipe"
            else:
                message = _how(code)
        started, digest = self.running()
        self._log.flush()
        size = os.fstat(self._log.fileno()).st_size
        log = os.pread(self._log.fileno(), 2000, max(0, size - 2000)).decode("utf-8", "replace")
        self.end()
        return Death(
            f"the process that ran it {message}" if started else message,
            digest if started else None,
            Status.CRASHED,
            log.strip(),
        )

    def kill(self) -> None:
        """Sends SIGKILL; whoever waits for an answer gets its `Death`."""
        self._process.kill()

    def end(self) -> None:
        """Kills it and lets go of all it held; harmless when repeated."""
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._log):
            assert stream is not None
            stream.close()


class _Watch:
    """The clock over one request. It trusts the worker's own times only as far as it must."""

    def __init__(self, worker: WorkerProcess, seconds: float) -> None:
        self._worker = worker
        self._ends = time.monotonic() + seconds
        self._seen = (-1, b"")
        self._since = 0.0

    def look(self) -> None:
        """Kills the worker when it is overdue.

        Raises:
            Death: it was.
        """
        worker = self._worker
        now = time.monotonic()
        running = worker.running()
        if running != self._seen:
            self._seen, self._since = running, now
        started, digest = running
        if now > self._ends:
            raise worker._die("took longer than all its queries may")
        if not started:
            if now - self._since > _SILENCE_SECONDS:
                raise worker._die(f"ran no query for {_SILENCE_SECONDS:.0f} s")
            return
        elapsed = max(
            now - self._since, (time.clock_gettime_ns(time.CLOCK_MONOTONIC) - started) / 1e9
        )
        if elapsed > worker._seconds + _GRACE_SECONDS:
            raise worker._overdue(started, digest, elapsed)


def _how(code: int) -> str:
    if code >= 0:
        return f"ended with code {code}"
    try:
        return f"died of {signal.Signals(-code).name}"
    except ValueError:
        return f"died of signal {-code}"
