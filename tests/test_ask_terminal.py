"""The interactive prompt in a real terminal: completion, history, Ctrl-C."""

from __future__ import annotations

import os
import pty
import select
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import TRAVEL_PAIRS

pytest.importorskip("readline", reason="this Python has no readline")

PATIENCE = 120.0  # seconds; what hangs must not hang the tests


class Terminal:
    """A program at the other end of a terminal."""

    def __init__(self, command: list[str], environment: dict[str, str]) -> None:
        self._own, other = pty.openpty()
        self._process = subprocess.Popen(
            command,
            stdin=other,
            stdout=other,
            stderr=other,
            env=environment,
            start_new_session=True,
            preexec_fn=_take_terminal,
        )
        os.close(other)
        self._seen = ""

    def until(self, text: str) -> str:
        """What is shown up to a text, which must come."""
        while text not in self._seen:
            ready, _, _ = select.select([self._own], [], [], PATIENCE)
            assert ready, f"no {text!r} after {self._seen!r}"
            try:
                chunk = os.read(self._own, 65536)
            except OSError:
                chunk = b""
            assert chunk, f"it ended before {text!r}: {self._seen!r}"
            self._seen += chunk.decode("utf-8", "replace")
        before, _, self._seen = self._seen.partition(text)
        return before

    def type(self, keys: str) -> None:
        os.write(self._own, keys.encode())

    def close(self) -> int:
        try:
            return self._process.wait(PATIENCE)
        finally:
            self._process.kill()
            os.close(self._own)


def _take_terminal() -> None:
    """Makes the terminal the program's own, so that Ctrl-C reaches it as a signal."""
    import fcntl
    import termios

    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


def test_a_session_with_completion_history_and_ctrl_c(
    travel: Path, travel_run: Path, tmp_path: Path
) -> None:
    question, _ = TRAVEL_PAIRS[0]
    environment = dict(os.environ, XDG_STATE_HOME=str(tmp_path), TERM="xterm", OMP_NUM_THREADS="1")
    command = [sys.executable, "-m", "spftcore.ask", "--model", str(travel_run)]
    command += ["--database", str(travel / "travel.sqlite"), "--limits.steps=999999999999"]
    command += ["--limits.seconds=600"]
    terminal = Terminal(command, environment)
    terminal.until("travel> ")
    terminal.type(".sch\tvis\t\n")
    assert "nights" in terminal.until("travel> ")
    endless = "with recursive r(n) as (select 1 union all select n + 1 from r) select max(n) from r"
    terminal.type(f".sql {endless}\n")
    terminal.until("\n")  # the line was read
    terminal.type("\x03")
    terminal.until("Stopped.")
    terminal.until("travel> ")
    terminal.type(question + "\n")
    assert "count" in terminal.until("travel> ")
    terminal.type("\x04")
    assert terminal.close() == 0
    history = tmp_path / "spftcore" / "ask_history"
    assert question in history.read_text(encoding="utf-8").splitlines()
    assert history.stat().st_mode & 0o077 == 0
