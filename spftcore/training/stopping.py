"""A request to stop: training heeds it after the step at work, everything else ends at once."""

from __future__ import annotations

import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Stopped(Exception):
    """Training ended early because it was asked to; its state is saved."""


class Stop:
    """Whether this process was asked to end.

    Args:
        otherwise: what a request does while nothing heeds it (it may be called on any thread).
    """

    def __init__(self, otherwise: Callable[[], None] = lambda: None) -> None:
        self.requested = False
        self._otherwise = otherwise
        self._heeded = False
        self._lock = threading.Lock()

    def request(self) -> None:
        with self._lock:
            self.requested = True
            heeded = self._heeded
        if not heeded:
            self._otherwise()

    def end(self) -> None:
        """Does what a request does while nothing heeds it: the body that did is over."""
        self._otherwise()

    @contextmanager
    def heeded(self) -> Iterator[None]:
        """While the body runs, a request only sets `requested`: the body must look at it.

        Raises:
            Stopped: a request came after the body's last look.
        """
        with self._lock:
            self._heeded = True
        try:
            yield
        finally:
            with self._lock:
                self._heeded = False
        if self.requested:
            raise Stopped

    def on_signals(self, *numbers: signal.Signals) -> None:
        """Makes each of these signals a request. Call it on the main thread.

        The signal is read from a socket on a thread of its own: a handler would wait until the
        main thread comes back from C code, which may take minutes.
        """
        reader, writer = socket.socketpair()
        writer.setblocking(False)

        def listen() -> None:
            with writer:  # kept open: the signal may come again while training ends its step
                while True:
                    if not set(numbers).isdisjoint(reader.recv(64)):  # one byte per signal
                        self.request()

        for number in numbers:
            signal.signal(number, lambda *_: None)
        signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
        threading.Thread(target=listen, daemon=True).start()
