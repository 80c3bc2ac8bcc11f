"""What a node keeps of the driver's files: fetched whole, kept from others, its own left alone."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from spftcore.cluster.files import Absent, Asking, Facts, NodeFiles, Origin


class Elsewhere(NodeFiles):
    """A node that sees nothing of the driver's under the path it has there, but what is given."""

    own: Path | None = None

    def seen(self, path: bytes) -> Facts | None:
        return None if self.own is None else Facts.of(os.fsencode(self.own))


def asking() -> Asking:
    origin = Origin()

    def chunks(path: bytes, size: int) -> Iterator[bytes]:
        yield origin.read(path, 0)

    return Asking(origin.digest, lambda path: "", chunks)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "driver.bin"
    path.write_bytes(b"content")
    return path


def facts(path: Path) -> Facts:
    found = Facts.of(os.fsencode(path))
    assert found is not None
    return found


def test_a_file_is_fetched_once_and_kept_for_its_user_alone(file: Path, tmp_path: Path) -> None:
    cache = tmp_path / "made" / "cache"
    first, second = Elsewhere(asking(), cache), Elsewhere(asking(), cache)
    assert first.file(facts(file)).read_bytes() == b"content"
    assert second.file(facts(file)) == first.file(facts(file))
    assert (first.fetched, second.fetched) == (1, 0)
    for path in (cache, *(cache / name for name in ("files", "locks"))):
        assert path.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("kind", ["link", "writable"])
def test_a_cache_that_others_can_write_into_is_not_used(
    kind: str, file: Path, tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    if kind == "link":
        (tmp_path / "theirs").mkdir()
        cache.symlink_to(tmp_path / "theirs")
    else:
        cache.mkdir()
        cache.chmod(0o777)
    with pytest.raises(Absent, match="TMPDIR"):
        Elsewhere(asking(), cache).file(facts(file))
    assert list(cache.iterdir()) == []


def test_what_a_killed_worker_left_is_no_obstacle(file: Path, tmp_path: Path) -> None:
    node = Elsewhere(asking(), tmp_path / "cache")
    fetched = node.file(facts(file))
    partial = fetched.with_name(fetched.name + ".partial")
    fetched.rename(partial)
    victim = tmp_path / "victim"
    victim.write_bytes(b"mine")
    partial.unlink()
    partial.symlink_to(victim)
    assert node.file(facts(file)).read_bytes() == b"content"
    assert victim.read_bytes() == b"mine"


def test_a_file_of_the_nodes_own_is_left_as_it_is_and_looked_at_again(
    file: Path, tmp_path: Path
) -> None:
    asked = facts(file)
    node = Elsewhere(asking(), tmp_path / "cache")
    os.utime(file, ns=(1_000_000_000, 2_000_000_000))  # the same content, of another time
    node.own = file
    assert node.file(asked) == node.file(asked) == file
    assert file.stat().st_mtime_ns == 2_000_000_000
    other = tmp_path / "other"
    other.write_bytes(b"another one")
    node.own = other
    found = node.file(asked)
    assert found != file
    assert found.read_bytes() == b"content"


def test_a_folder_that_cannot_be_fetched_leaves_nothing_half_made(
    file: Path, tmp_path: Path
) -> None:
    gone = Facts(os.fsencode(tmp_path / "gone"), 3, 4)
    node = Elsewhere(asking(), tmp_path / "cache")
    with pytest.raises(Absent, match="gone"):
        node.tree([facts(file), gone], str(tmp_path))
    assert list((tmp_path / "cache" / "trees").iterdir()) == []
