"""Files of the driver as a node sees them: at the same path where that is shared, else fetched once
per node into a cache named by their content.

No Ray here: `NodeFiles` is given what asks the driver's machine.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from spftcore.errors import SpftError
from spftcore.verify import Executor, Status

CHUNK = 8 << 20
CACHE_BYTES = 256 << 30  # of fetched files on a node
RESERVE_BYTES = 1 << 30  # left free on its disk
RECENT_SECONDS = 3600.0  # a file used since then may be open, and stays


def default_cache() -> Path:
    """Where a node keeps what it has fetched."""
    return Path(tempfile.gettempdir()) / f"spftcore-{os.getuid()}"


class Absent(SpftError):
    """A file that this node neither sees nor gets; the message says why."""


@dataclass(frozen=True, slots=True)
class Facts:
    """How a file is known again.

    Attributes:
        path: absolute.
        size: bytes.
        modified: nanoseconds since 1970.
    """

    path: bytes
    size: int
    modified: int

    @classmethod
    def of(cls, path: bytes) -> Facts | None:
        """Those of a regular file; None where there is none."""
        try:
            found = os.stat(path)
        except OSError:
            return None
        if not stat.S_ISREG(found.st_mode):
            return None
        return cls(path, found.st_size, found.st_mtime_ns)


def sha256(path: bytes | Path) -> str:
    """Of a file's content, 64 hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class Origin:
    """Answers for the driver's machine: what a file holds. Run as an actor on that machine."""

    def __init__(self) -> None:
        self._digests: dict[Facts, str] = {}

    def digest(self, path: bytes) -> tuple[Facts, str] | None:
        """A file as it is now and the SHA-256 of its content; None where there is none."""
        facts = Facts.of(path)
        if facts is None:
            return None
        if facts not in self._digests:
            try:
                self._digests[facts] = sha256(path)
            except OSError:
                return None
        return facts, self._digests[facts]

    def refusal(self, path: bytes) -> str:
        """Why the executor would not open a database here; empty where it would."""
        with Executor(threads=1) as executor:
            (outcome,) = executor.execute([(os.fsdecode(path), "select 1")])
        return outcome.message if outcome.status is Status.DATABASE_ERROR else ""

    def read(self, path: bytes, offset: int) -> bytes:
        """`CHUNK` bytes of a file from `offset`, fewer at its end."""
        with open(path, "rb") as file:
            file.seek(offset)
            return file.read(CHUNK)


@dataclass(frozen=True, slots=True)
class Asking:
    """The origin as a node reaches it; the functions are those of `Origin`, waiting for the answer.

    Attributes:
        chunks: yields a file's content from its beginning.
    """

    digest: Callable[[bytes], tuple[Facts, str] | None]
    refusal: Callable[[bytes], str]
    chunks: Callable[[bytes, int], Iterator[bytes]]


class NodeFiles:
    """What a node has of the driver's files.

    Args:
        asking: the driver's machine.
        folder: the node's cache; shared by all of its workers.
        limit: bytes it may hold.

    Attributes:
        fetched: files that this worker has fetched.
        fetched_bytes: their sizes.
    """

    def __init__(self, asking: Asking, folder: Path, limit: int = CACHE_BYTES) -> None:
        self._asking = asking
        self._folder = folder
        self._limit = limit
        self._known: dict[Facts, Path] = {}
        self._alike: dict[Facts, Facts] = {}  # this node's own files of the driver's content
        self._refused: dict[Facts, str] = {}
        self.fetched = 0
        self.fetched_bytes = 0

    def database(self, facts: Facts) -> bytes:
        """Where this node has a database; a path to be opened now.

        Raises:
            Absent: likewise.
        """
        if self.seen(facts.path) == facts:
            return facts.path
        if facts in self._refused:
            raise Absent(self._refused[facts])
        if facts not in self._known and (refusal := self._asking.refusal(facts.path)):
            self._refused[facts] = refusal  # a log beside it, which the copy would not have
            raise Absent(refusal)
        return os.fsencode(self._copy(facts))

    def file(self, facts: Facts) -> Path:
        """Where this node has a file; see `database`.

        Raises:
            Absent: likewise.
        """
        if self.seen(facts.path) == facts:
            return Path(os.fsdecode(facts.path))
        return self._copy(facts)

    def tree(self, files: Sequence[Facts], root: str) -> Path:
        """A folder that holds files as they lie under a folder of the driver's.

        Raises:
            Absent: this node cannot get one of them.
        """
        if all(self.seen(facts.path) == facts for facts in files):
            return Path(root)
        names = [os.path.relpath(os.fsdecode(facts.path), root) for facts in files]
        text = "\n".join(f"{f.size} {f.modified} {n}" for f, n in zip(files, names, strict=True))
        name = hashlib.sha256(f"{root}\n{text}".encode()).hexdigest()
        target = self._folder / "trees" / name
        with self._locked(name):
            if not target.is_dir():
                made = Path(tempfile.mkdtemp(dir=self._made("trees")))
                try:
                    for facts, relative in zip(files, names, strict=True):
                        (made / relative).parent.mkdir(parents=True, exist_ok=True)
                        os.symlink(self.file(facts), made / relative)
                    made.rename(target)
                except BaseException:
                    shutil.rmtree(made, ignore_errors=True)
                    raise
            for facts, relative in zip(files, names, strict=True):
                if not (target / relative).exists():  # cleared away meanwhile
                    (target / relative).unlink(missing_ok=True)
                    os.symlink(self.file(facts), target / relative)
        return target

    def seen(self, path: bytes) -> Facts | None:
        """A file of this node at the driver's path."""
        return Facts.of(path)

    # -- copies --------------------------------------------------------------------------------

    def _copy(self, facts: Facts) -> Path:
        name = os.fsdecode(facts.path)
        if facts in self._alike and self._alike[facts] == self.seen(facts.path):
            return Path(name)
        known = self._known.get(facts)
        if known is not None and known.exists():
            with suppress(OSError):
                os.utime(known)
            return known
        described = self._asking.digest(facts.path)
        if described is None:
            raise Absent(f"Database file '{name}' is neither on this node nor on the driver's.")
        now, digest = described
        seen = self.seen(facts.path)
        if seen is not None and seen.size == now.size and sha256(facts.path) == digest:
            self._alike[facts] = seen
            return Path(name)
        found = self._known[facts] = self._fetched(now, digest)
        return found

    def _fetched(self, facts: Facts, digest: str) -> Path:
        target = self._made("files") / digest
        with self._locked(digest):
            if not target.exists():
                self._make_room(facts.size)
                self._fetch(facts, digest, target)
            with suppress(OSError):
                os.utime(target)
        return target

    def _fetch(self, facts: Facts, digest: str, target: Path) -> None:
        partial = target.with_name(target.name + ".partial")
        name = os.fsdecode(facts.path)
        hashed = hashlib.sha256()
        try:
            partial.unlink(missing_ok=True)  # of a worker that was killed
            with partial.open("xb") as file:
                for chunk in self._asking.chunks(facts.path, facts.size):
                    hashed.update(chunk)
                    file.write(chunk)
            if hashed.hexdigest() != digest:
                raise Absent(f"'{name}' changed while a node fetched it.")
            partial.chmod(0o400)
            partial.rename(target)
        except OSError as error:
            raise Absent(f"'{name}' could not be fetched to a node: {error.strerror}.") from None
        finally:
            partial.unlink(missing_ok=True)
        self.fetched += 1
        self.fetched_bytes += facts.size

    def _make_room(self, size: int) -> None:
        held = []
        for path in self._made("files").iterdir():
            with suppress(OSError):
                found = path.stat()
                held.append((found.st_mtime, found.st_size, path))
        free = shutil.disk_usage(self._folder).free - RESERVE_BYTES
        spare = min(self._limit - sum(bytes_ for _, bytes_, _ in held), free)
        for used, bytes_, path in sorted(held):
            if spare >= size:
                return
            if time.time() - used > RECENT_SECONDS:
                path.unlink(missing_ok=True)
                spare += bytes_
        if spare < size:
            raise Absent(
                f"A node has no room for a file of {size} bytes in {self._folder}. Free some, or "
                "put the files on a path that all nodes share."
            )

    def _made(self, name: str) -> Path:
        """A folder in the cache.

        Raises:
            Absent: it cannot be made, or somebody else can write into the cache: its path can be
                guessed, and what lies there is taken for what was fetched.
        """
        folder = self._folder / name
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            found = os.lstat(self._folder)
        except OSError as error:
            raise Absent(f"A node cannot use {self._folder}: {error.strerror}.") from None
        own = stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid()
        if not own or found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise Absent(
                f"{self._folder} on a node is not a folder that this user alone can write into. "
                "Remove it there, or set TMPDIR to a folder of your own on the nodes."
            )
        folder.mkdir(mode=0o700, exist_ok=True)
        return folder

    @contextmanager
    def _locked(self, name: str) -> Iterator[None]:
        with (self._made("locks") / name).open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
