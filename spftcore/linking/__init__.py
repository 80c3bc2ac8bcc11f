"""Schema linking: which values, tables and columns of a database a question is about."""

from spftcore.linking.values import ValueIndex, ValueMatch
from spftcore.linking.words import words

__all__ = ["ValueIndex", "ValueMatch", "words"]
