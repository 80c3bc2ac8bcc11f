"""What is wrong with a wrong answer: classes of mistake from the two queries and their results."""

from spftcore.mistakes.classes import CLASSES, FAILURES, describe
from spftcore.mistakes.classify import classify
from spftcore.mistakes.find import find_mistakes

__all__ = ["CLASSES", "FAILURES", "classify", "describe", "find_mistakes"]
