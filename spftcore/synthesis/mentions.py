"""Does a question speak of what its SQL does? Learned from pairs, used to drop bad questions.

Every query has features: its columns (keys of joins aside) and its operations (an average, a
comparison, "the most", …). Over the pairs that people wrote, words are counted with features: a
word that keeps company with a feature is a cue of it. A question passes when it holds a cue of
every feature of its SQL, and no word that never comes without a feature the SQL lacks.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable

from sqlglot import exp

from spftcore.databases import Database
from spftcore.linking import words
from spftcore.synthesis.resolve import ResolveError, resolve
from spftcore.synthesis.sql_text import is_join_condition

CUE_SHARE = 0.25  # of the questions with a cue word, at least so many have the feature
CUE_COUNT = 2  # a cue was seen with its feature at least so often
TELLING_COUNT = 6  # a telling word was seen so often, and (nearly) always with its feature
TELLING_SHARE = 0.9

_AGGREGATES: dict[type[exp.Expr], str] = {exp.Avg: "average", exp.Sum: "sum", exp.Count: "count"}
_COMPARISONS: dict[type[exp.Expr], str] = {
    exp.GT: "above", exp.GTE: "above", exp.LT: "below", exp.LTE: "below",
    exp.Between: "between", exp.Like: "like", exp.Or: "or", exp.Not: "not", exp.NEQ: "not",
}  # fmt: skip


def features(sql: str, database: Database) -> set[str]:
    """The features of a query; columns as `table.column`, operations as one word.

    Raises:
        ResolveError: the query does not parse or does not fit the database.
    """
    found: set[str] = set()
    resolved = resolve(sql, database)
    for scope in resolved.scopes:
        joining = {
            id(column)
            for comparison in scope.select.find_all(exp.EQ)
            if is_join_condition(comparison, scope)
            for column in comparison.find_all(exp.Column)
        }
        for use in scope.uses:
            if use.base is None or id(use.node) in joining:
                continue
            table, column = use.base
            if column.primary_key or database.is_foreign_key(table.name, column.name):
                continue
            found.add(f"{table.name}.{column.name}".lower())
    for node in resolved.tree.walk():
        if node.args.get("negate"):  # NOT LIKE has no node of its own
            found.add("not")
        if isinstance(node, exp.Max) or (isinstance(node, exp.Ordered) and node.args.get("desc")):
            found.add("most")
        elif isinstance(node, exp.Min | exp.Ordered):
            found.add("least")
        elif isinstance(node, exp.Group):
            found.add("group")
        else:
            for kind, name in (_AGGREGATES | _COMPARISONS).items():
                if isinstance(node, kind):
                    found.add(name)
    return found


class Mentions:
    """Cues learned from pairs: of operations over all databases, of columns in each."""

    def __init__(self, pairs: Iterable[tuple[str, str, Database]]) -> None:
        """Args:
        pairs: (question, SQL, database); pairs that cannot be resolved are passed over.
        """
        self._with: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
        self._count: dict[str, Counter[str]] = defaultdict(Counter)
        for question, sql, database in pairs:
            try:
                known = features(sql, database)
            except ResolveError:
                continue
            for word in set(words(question)):
                for scope in ("", database.id):
                    self._count[scope][word] += 1
                for feature in sorted(known):
                    scope = database.id if "." in feature else ""
                    self._with[scope, feature][word] += 1

    def fault(self, question: str, sql: str, database: Database) -> str | None:
        """Why a question does not fit its SQL ("… not said", "… said"), or None when it may."""
        try:
            present = features(sql, database)
        except ResolveError:
            return None
        said = set(words(question))
        for feature in sorted(present):
            scope = database.id if "." in feature else ""
            together, alone = self._with[scope, feature], self._count[scope]
            named = "." in feature and said & set(_natural_words(feature, database))
            if not named and not any(
                together[w] >= CUE_COUNT and together[w] >= CUE_SHARE * alone[w] for w in said
            ):
                return "column not said" if "." in feature else "operation not said"
        for (scope, feature), together in self._with.items():
            if feature in present or scope not in ("", database.id):
                continue
            for word in said:
                count = together[word]
                if count >= TELLING_COUNT and count >= TELLING_SHARE * self._count[scope][word]:
                    return "another column said" if scope else "another operation said"
        return None


def _natural_words(feature: str, database: Database) -> list[str]:
    table, _, column = feature.partition(".")
    return words(database.column(table, column).natural_name)
