"""A worker process: runs batches on one thread for its parent, inside hard limits.

Started by `spftcore.verify.isolation`, which writes requests to its standard input (8 bytes of
length, then a pickle: the parent is trusted) and reads answers (`answers.py`, no pickle: this
process runs untrusted SQL) from its standard output. An exception ends the process: the parent
sees it as a death and knows what to do.
"""

from __future__ import annotations

import mmap
import os
import pickle
import resource
import signal
import struct
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from spftcore.verify.answers import encode_executed, encode_rows, encode_verified
from spftcore.verify.native import attached_module

READY = b"ready"
STOPPED = b"stopped"
# After the executor's RunningQuery in the shared memory: a flag by which the parent stops a batch,
# and the number of queries done.
FLAG = struct.Struct("<q")
STOP_AT, DONE_AT, SHARED_BYTES = 0, 8, 16
_ORPHAN_CHECK_SECONDS = 0.25
_FILE_BYTES = 1 << 20  # its error output is the only file it has reason to write


class _Stopped(Exception):
    """The parent wants no more of this batch."""


def main(settings: dict[str, Any]) -> None:
    """Serves requests until the parent is gone.

    Args:
        settings: `parent` its process id, `memory` the descriptor of the shared memory, `bytes`
            of address space above what the process uses at rest, `executor` the arguments of the
            C++ executor.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    answers = os.dup(1)
    os.dup2(2, 1)  # whatever prints must not reach the parent as an answer
    threading.Thread(target=_end_with, args=(settings["parent"],), daemon=True).start()
    module = attached_module()
    shared = mmap.mmap(settings["memory"], module.RUNNING_QUERY_BYTES + SHARED_BYTES)
    executor = module.Executor(threads=1, running=shared, **settings["executor"])
    _confine(settings["bytes"])
    stop_at = module.RUNNING_QUERY_BYTES + STOP_AT
    done_at = module.RUNNING_QUERY_BYTES + DONE_AT

    def poll(done: int, total: int) -> None:
        if FLAG.unpack_from(shared, stop_at)[0]:
            raise _Stopped
        FLAG.pack_into(shared, done_at, done)

    _write(answers, READY)
    while (request := _read_frame()) is not None:
        kind, argument, folder, units, presets = pickle.loads(request)
        if folder is not None:
            with suppress(OSError):  # then relative paths do not exist, and their outcomes say so
                os.chdir(folder)
        try:
            if kind == "verify":
                verified = executor.verify(units, argument, presets, poll)
                answer = encode_verified(verified, executor.counters())
            elif kind == "execute":
                executed = executor.execute(units, presets, poll)
                answer = encode_executed(executed, executor.counters())
            else:
                answer = encode_rows(executor.rows(*units[0]), executor.counters())
        except _Stopped:
            answer = STOPPED
        _write(answers, answer)


def _confine(bytes_above_rest: int) -> None:
    """Limits that this process cannot lift again; the first candidate when memory runs out."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (_FILE_BYTES, _FILE_BYTES))
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    bound = pages * resource.getpagesize() + bytes_above_rest
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    if hard != resource.RLIM_INFINITY:
        bound = min(bound, hard)
    resource.setrlimit(resource.RLIMIT_AS, (bound, bound))
    os.nice(1)  # the parent, which watches the clock, goes first
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")


def _end_with(parent: int) -> None:
    """Ends this process when its parent has: also while a query hangs, also after a SIGKILL.

    End of file on the input is not enough: a fork of the parent holds its other end too. And
    Linux's PR_SET_PDEATHSIG fires when the *thread* that started this process ends.
    """
    while os.getppid() == parent:
        time.sleep(_ORPHAN_CHECK_SECONDS)
    os._exit(1)


def _read_exactly(size: int) -> bytes | None:
    parts = []
    while size > 0:
        part = os.read(0, min(size, 1 << 20))
        if not part:
            return None
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def _read_frame() -> bytes | None:
    head = _read_exactly(8)
    return None if head is None else _read_exactly(int.from_bytes(head, "little"))


def _write(descriptor: int, answer: bytes) -> None:
    left = memoryview(len(answer).to_bytes(8, "little") + answer)
    while left:
        left = left[os.write(descriptor, left) :]


if __name__ == "__main__":
    sys.exit("This is the inside of Executor(isolation='process'); it is not started by hand.")
