"""Training items made when they are drawn: a data set costs what is used of it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Generic, TypeVar, overload

Item = TypeVar("Item")

# Encoded items are kept for later epochs up to so many tokens (about 36 bytes each in a tuple);
# beyond, they are encoded again whenever they are drawn.
KEPT_TOKENS = 8_000_000


class TrainingSet(Sequence[Item | None], Generic[Item]):
    """Items by number; one that may not be trained on is None.

    Args:
        sources: what each item is made from, by number: ids of pairs, say.
        make: gives the item of a source, or None (too long). It must give the same at each call.
        size: tokens of an item.
        identity: says what the set holds; a training resumes only on the same.
    """

    def __init__(
        self,
        sources: Sequence[Any],
        make: Callable[[Any], Item | None],
        size: Callable[[Item], int],
        identity: str,
    ) -> None:
        self.identity = identity
        self._sources, self._make, self._size = sources, make, size
        self._kept: dict[int, Item | None] = {}
        self._tokens = 0

    def __len__(self) -> int:
        return len(self._sources)

    @overload
    def __getitem__(self, index: int) -> Item | None: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Item | None]: ...
    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if index in self._kept:
            return self._kept[index]
        item = self._make(self._sources[index])
        size = 0 if item is None else self._size(item)
        if self._tokens + size <= KEPT_TOKENS:
            self._kept[index] = item
            self._tokens += size
        return item


def digest(texts: Iterable[str]) -> str:
    """16 hexadecimal digits of a sequence of texts."""
    found = hashlib.sha256()
    for text in texts:
        found.update(text.encode("utf-8", "surrogatepass") + b"\0")
    return found.hexdigest()[:16]
