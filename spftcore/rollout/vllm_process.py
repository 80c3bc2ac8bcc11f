"""The process in which vLLM runs: started, asked, watched and ended."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import tempfile
import time
import weakref
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from spftcore.errors import SpftError
from spftcore.rollout import vllm_worker

# How long the worker may be silent: it gives a sign of life every few seconds while it generates,
# and none while it loads a model.
START_SECONDS = 1800.0
SILENT_SECONDS = 300.0
CLOSE_SECONDS = 10.0


class WorkerGone(Exception):
    """The worker died, hangs, or cannot go on; the message says which."""


class RequestFailed(Exception):
    """The worker could not do what was asked, and waits for the next request."""


class WorkerProcess:
    """`vllm_worker.py` under another interpreter.

    Args:
        command: interpreter and file of the worker.
        log: file for what vLLM prints; none: a temporary one.
        start_seconds: silence allowed while a model is loaded.
        silent_seconds: silence allowed otherwise.
        gpu: the only one that it sees, by its number among those seen here; none: all of these.

    Raises:
        WorkerGone: the interpreter cannot be started.
    """

    def __init__(
        self,
        command: Sequence[str | Path],
        log: Path | None = None,
        *,
        start_seconds: float = START_SECONDS,
        silent_seconds: float = SILENT_SECONDS,
        gpu: int | None = None,
    ) -> None:
        self._seconds = {"open": start_seconds, "reload": start_seconds, "close": CLOSE_SECONDS}
        self._silent = silent_seconds
        self._number = 0
        self._under_way: int | None = None  # the request that is not answered to its end
        if log is None:
            handle, name = tempfile.mkstemp(prefix="vllm-", suffix=".log")
            self._log, temporary = Path(name), True
        else:
            handle, temporary = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644), False
            self._log = log
        self._log_start = os.fstat(handle).st_size
        # A group of its own, so that what vLLM starts ends with it.
        try:
            self._process = subprocess.Popen(
                [str(part) for part in command],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=handle,
                start_new_session=True,
                env=_environment(gpu),
            )
        except OSError as error:
            if temporary:
                self._log.unlink()
            raise WorkerGone(f"{command[0]} cannot be started ({error.strerror})") from error
        finally:
            os.close(handle)
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._input, self._output = self._process.stdin, self._process.stdout
        os.set_blocking(self._input.fileno(), False)
        self._replies = vllm_worker.Lines(self._output.fileno())
        self._end = weakref.finalize(self, _end, self._process, self._log if temporary else None)

    @property
    def pid(self) -> int:
        return self._process.pid

    def ask(self, request: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """Replies to a request. One at a time: leaving the iteration early cancels the request, and
        so does the next one, which may come first where an exception still holds the iteration.

        Raises:
            WorkerGone: the worker died or is silent for too long (it is then ended).
            RequestFailed: it could not do what was asked.
            SpftError: another request has taken this one's place.
        """
        seconds = self._seconds.get(request["do"], self._silent)
        self._cancel(self._under_way, seconds)
        self._number += 1
        number = self._under_way = self._number
        try:
            self._send(request | {"id": number}, seconds)
            while self._under_way == number:
                reply = self._receive(seconds)
                if reply["id"] != number:
                    continue
                if reply.get("done"):
                    self._under_way = None
                if "error" in reply:
                    raise RequestFailed(reply["error"])
                yield reply
                if not reply.get("done") and self._under_way != number:
                    raise SpftError("vLLM was asked for something else before this was finished.")
        except GeneratorExit:
            with contextlib.suppress(WorkerGone):
                self._cancel(number, seconds)
            raise

    def _cancel(self, number: int | None, seconds: float) -> None:
        """Waits for the end of a request that nobody wants any more, if it is still under way."""
        if number is None or self._under_way != number:
            return
        self._send({"do": "cancel", "id": number}, seconds)
        while self._under_way == number:
            reply = self._receive(seconds)
            if reply["id"] == number and reply.get("done"):
                self._under_way = None

    def _send(self, message: dict[str, Any], seconds: float) -> None:
        left = memoryview(json.dumps(message).encode() + b"\n")
        while left:
            if not select.select([], [self._input], [], seconds)[1]:
                raise self._silence(seconds)
            try:
                left = left[os.write(self._input.fileno(), left[: 1 << 20]) :]
            except BlockingIOError:
                continue
            except OSError as error:
                raise self._death() from error

    def _receive(self, seconds: float) -> dict[str, Any]:
        """The next reply; a line of it that comes in counts as a sign of life."""
        until = time.monotonic() + seconds
        while True:
            try:
                message = self._replies.read(wait=False)
            except ValueError as error:
                self.kill()
                raise WorkerGone("its reply is no JSON: it does not speak our protocol") from error
            if message is not None:
                return message
            if self._replies.ended:
                raise self._death()
            if not select.select([self._output], [], [], max(0.0, until - time.monotonic()))[0]:
                raise self._silence(seconds)

    def _death(self) -> WorkerGone:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(CLOSE_SECONDS)
        code = self._process.poll()
        if code is not None and code < 0:
            how = f"killed by {signal.Signals(-code).name}"
            how += ", as the system does when memory is short" if code == -signal.SIGKILL else ""
        else:
            how = f"ended with code {code}"
        last = self.last_line()
        self.kill()
        return WorkerGone(f"the process was {how}" + (f"; it wrote: {last}" if last else ""))

    def _silence(self, seconds: float) -> WorkerGone:
        self.kill()
        return WorkerGone(f"it gave no sign of life for {seconds:.0f} s and was ended")

    def last_line(self) -> str:
        """The last line the worker wrote that tells of an error; '' if none does."""
        try:
            with self._log.open("rb") as file:
                file.seek(max(self._log_start, self._log.stat().st_size - 65_536))
                text = file.read().decode("utf-8", "replace")
        except OSError:
            return ""
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        errors = [line for line in lines if line.partition(":")[0].endswith(("Error", "Exception"))]
        return errors[-1][:400] if errors else ""

    def close(self) -> None:
        """Asks the worker to end, and ends it if it does not."""
        if self._process.poll() is None:
            with contextlib.suppress(WorkerGone, RequestFailed):
                for _ in self.ask({"do": "close"}):
                    pass
        self.kill()

    def kill(self) -> None:
        """Ends the worker and what it started, at once; nothing is left of it to wait for."""
        self._end()


def _environment(gpu: int | None) -> dict[str, str]:
    # Our own interpreter's settings would mislead another one, and modules of the folder we were
    # started in would hide installed ones (vLLM starts helpers of its own by `python -m`).
    hidden = ("PYTHONHOME", "PYTHONPATH", "VIRTUAL_ENV", "__PYVENV_LAUNCHER__")
    kept = {key: value for key, value in os.environ.items() if key not in hidden}
    if gpu is not None:
        seen = kept.get("CUDA_VISIBLE_DEVICES")
        kept["CUDA_VISIBLE_DEVICES"] = seen.split(",")[gpu] if seen else str(gpu)
    return kept | {"PYTHONSAFEPATH": "1"}


def _end(process: subprocess.Popen[bytes], temporary_log: Path | None) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with contextlib.suppress(OSError):
                pipe.close()
    if temporary_log is not None:
        temporary_log.unlink(missing_ok=True)


class InProcess:
    """vLLM in this process, behind the same face as `WorkerProcess`."""

    def __init__(self) -> None:
        vllm_worker.set_environment()
        self._session = vllm_worker.Session()
        self._number = 0

    def ask(self, request: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """Replies to a request. Leaving the iteration early cancels the request.

        Raises:
            RequestFailed: vLLM could not do what was asked.
        """
        self._number += 1
        try:
            yield from self._session.answer(request | {"id": self._number})
        except Exception as error:
            raise RequestFailed(vllm_worker.end_of(error)) from error

    def close(self) -> None:
        self._session.close()
