"""Which files of a folder are databases, and under which ids."""

from __future__ import annotations

from pathlib import Path

from spftcore.errors import SpftError

SUFFIXES = (".sqlite", ".db")


def database_files(folder: Path) -> list[tuple[str, Path]]:
    """(id, file) of every database of a folder, by id.

    A database is `<id>.sqlite` (or `.db`) or `<id>/<id>.sqlite` (or `.db`).

    Raises:
        SpftError: the folder is missing or holds no database, or two files have one id.
    """
    if not folder.is_dir():
        what = "is a file" if folder.exists() else "does not exist"
        raise SpftError(
            f"The folder of databases {folder} {what}. "
            "Name a folder that holds <id>.sqlite or <id>/<id>.sqlite files."
        )
    found: dict[str, Path] = {}
    for entry in sorted(folder.iterdir()):
        if entry.is_dir():
            candidates = [entry / (entry.name + suffix) for suffix in SUFFIXES]
        else:
            candidates = [entry] if entry.suffix in SUFFIXES else []
        for path in candidates:
            if not path.is_file():
                continue
            if path.stem in found:
                raise SpftError(
                    f"Two databases have the id '{path.stem}': {found[path.stem]} and {path}. "
                    "Rename or remove one of them."
                )
            found[path.stem] = path
    if not found:
        raise SpftError(
            f"The folder {folder} holds no SQLite database. "
            "Put files named <id>.sqlite, <id>.db or <id>/<id>.sqlite there."
        )
    return sorted(found.items())
