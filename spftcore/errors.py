"""Errors a user can act on: the message says what happened, why, and the remedy."""

from __future__ import annotations

import errno
import traceback
from contextlib import suppress
from pathlib import Path


class SpftError(Exception):
    """A failure the user can mend. Commands print the message alone and exit with code 1."""


class UsageError(SpftError):
    """A wrong option, key or argument. Commands print the message alone and exit with code 2."""


def explain(error: Exception, directory: Path) -> SpftError:
    """Any other failure during a run as a message; its traceback goes into `error.log`.

    Args:
        error: what was raised.
        directory: the run's folder.
    """
    text = str(error)
    # SQLite, safetensors and the system each say in their own words that the disk is full.
    full = isinstance(error, OSError) and error.errno == errno.ENOSPC
    if full or "No space left" in text or "disk is full" in text:
        return SpftError(
            f"The disk that holds {directory} is full. Free some space and go on with --resume; "
            "finished stages are kept."
        )
    log = directory / "error.log"
    with suppress(OSError):  # the log is a courtesy; the message must come through
        log.write_text("".join(traceback.format_exception(error)), encoding="utf-8")
    first = text.strip().splitlines()[0] if text.strip() else "no message"
    return SpftError(
        f"{type(error).__name__}: {first}. Details are in {log}; go on with --resume once it is "
        "mended."
    )
