"""Answers to questions outside training: greedy, by vote over samples, with a repair round.

    with open_answerer(Path("runs/demo"), catalogue, Strategy(samples=8)) as answerer:
        for answered in answerer.answers([Question("1", "shop", "How many orders are there?")]):
            print(answered.sql)

`docs/inference.md` states the rules and what they gain.
"""

from spftcore.inference.answering import Answered, Answerer, Question
from spftcore.inference.strategies import Candidate, Strategy

__all__ = ["Answered", "Answerer", "Candidate", "Question", "Strategy"]
