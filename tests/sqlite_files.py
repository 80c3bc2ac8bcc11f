"""Database files as tests write them, with Python's own sqlite3."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path


def make(path: Path, script: str) -> Path:
    """A new database file from a script; folders on the way are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(script)
    return path
