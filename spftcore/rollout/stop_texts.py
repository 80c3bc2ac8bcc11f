"""Whether a completion has reached a text that ends it, found while it is written."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

# Tokens before the stop text that are decoded with it: the first token of what is decoded may lose
# its blank or be half a character.
CONTEXT_TOKENS = 4


class StopTexts:
    """Finds stop texts in token ids, also where one spans several tokens or ends inside one.

    Args:
        tokenizer: of the model.
        texts: what ends a completion.
    """

    def __init__(self, tokenizer: Any, texts: Sequence[str]) -> None:
        self._tokenizer = tokenizer
        self._texts = tuple(text for text in texts if text)
        # A token holds a byte at least, so a text cannot spread over more tokens than it has bytes.
        longest = max((len(text.encode()) for text in self._texts), default=0)
        self._tail = longest + CONTEXT_TOKENS

    def reached(self, ids: Sequence[int]) -> bool:
        """Whether the last token completed a stop text, given that none stood there before."""
        if not self._texts:
            return False
        tail = self._decoded(ids[-self._tail :])
        if not any(text in tail for text in self._texts):
            return False
        return self._first(self._decoded(ids)) is not None

    def text(self, ids: Sequence[int]) -> str:
        """The text of a completion, without special tokens, up to the first stop text."""
        decoded = self._decoded(ids)
        return decoded[: self._first(decoded)]

    def _first(self, decoded: str) -> int | None:
        found = [place for text in self._texts if (place := decoded.find(text)) >= 0]
        return min(found, default=None)

    def _decoded(self, ids: Sequence[int]) -> str:
        return str(self._tokenizer.decode(ids, skip_special_tokens=True))
