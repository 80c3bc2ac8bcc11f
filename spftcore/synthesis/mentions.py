"""Does a question speak of what its SQL does? Learned from pairs, used to drop bad questions.

Every query has features: its columns (keys of joins aside) and its operations (an average, a
comparison, "the most", …). Over the pairs that people wrote, words are counted with features: a
word that keeps company with a feature is a cue of it. A question passes when it holds a cue of
every feature of its SQL, and no word that never comes without a feature the SQL lacks.

Where too few pairs tell of a feature (none, when a user brings no pairs), words of a dictionary
and of the schema serve: a column has to be named by a word of its natural name, unless the
questions that the verbaliser writes for the query do without it, too.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence

from sqlglot import exp

from spftcore.databases import Database
from spftcore.linking import words
from spftcore.synthesis.resolve import ResolveError, resolve
from spftcore.synthesis.sql_text import is_join_condition
from spftcore.synthesis.wording import singular

CUE_SHARE = 0.25  # of the questions with a cue word, at least so many have the feature
CUE_COUNT = 2  # a cue was seen with its feature at least so often
TELLING_COUNT = 6  # a telling word was seen so often, and (nearly) always with its feature
TELLING_SHARE = 0.9
KNOWN_COUNT = 5  # a feature that fewer pairs have is looked for by the dictionary

_LEXICON_TEXT = {
    "average": "average averages averaged mean typical",
    "sum": "total totals sum sums altogether combined overall together much many",
    "count": "many number numbers count counts total much often",
    "above": "above over more greater least higher larger bigger longer older taller heavier later"
    " after since exceeds exceed exceeding beyond minimum no less faster up",
    "below": "below under less fewer smaller lower most shorter younger lighter earlier before"
    " until maximum cheaper no more slower up",
    "between": "between from range within",
    "like": "contain contains containing include includes including start starts starting begin"
    " begins beginning end ends ending with like pattern letter word in substring matches",
    "or": "or either any",
    "not": "not no without except other than never neither nor different excluding un",
    "most": "most highest largest biggest greatest maximum max top latest last newest oldest"
    " youngest longest best tallest heaviest fastest expensive recent descending high more"
    " decreasing reverse paid",
    "least": "least fewest lowest smallest minimum min earliest first oldest youngest shortest"
    " cheapest lightest slowest ascending low alphabetical alphabetically sorted ordered order"
    " increasing worst sort",
    "group": "each per every by group groups different most fewest highest lowest which least",
}
_LEXICON = {name: frozenset(text.split()) for name, text in _LEXICON_TEXT.items()}

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
        self._seen: Counter[tuple[str, str]] = Counter()
        for question, sql, database in pairs:
            try:
                known = features(sql, database)
            except ResolveError:
                continue
            for feature in known:
                self._seen[database.id if "." in feature else "", feature] += 1
            for word in set(words(question)):
                for scope in ("", database.id):
                    self._count[scope][word] += 1
                for feature in sorted(known):
                    scope = database.id if "." in feature else ""
                    self._with[scope, feature][word] += 1

    def fault(
        self, question: str, sql: str, database: Database, drafts: Sequence[str] = ()
    ) -> str | None:
        """Why a question does not fit its SQL ("… not said", "… said"), or None when it may.

        Args:
            question: what is checked.
            sql: its query.
            database: the query's.
            drafts: questions by rule for the same query; what they do without need not be said.
        """
        try:
            present = features(sql, database)
        except ResolveError:
            return None
        said = set(words(question))
        for feature in sorted(present):
            scope = database.id if "." in feature else ""
            together, alone = self._with[scope, feature], self._count[scope]
            if self._seen[scope, feature] < KNOWN_COUNT:
                if not _said_in_other_words(feature, said, database, drafts):
                    return "column not said" if "." in feature else "operation not said"
                continue
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


def _said_in_other_words(
    feature: str, said: set[str], database: Database, drafts: Sequence[str]
) -> bool:
    """Whether a feature that pairs say little of is in a question, or need not be."""
    if "." not in feature:
        cues = _LEXICON[feature]
    else:
        cues = frozenset(_forms(_natural_words(feature, database)))
        said = set(_forms(said))
    if cues & said or not cues:
        return True
    return any(not cues & set(_forms(words(draft))) for draft in drafts)


def _forms(words_: Iterable[str]) -> Iterator[str]:
    """Words in the singular, with the endings of verbs and adjectives cut: "paying", "payment"."""
    for word in words_:
        yield word
        word = singular(word)
        yield word
        for ending in ("ing", "ed", "ment", "ion", "er", "e"):
            if word.endswith(ending) and len(word) > len(ending) + 2:
                yield word.removesuffix(ending)


def _natural_words(feature: str, database: Database) -> list[str]:
    table, _, column = feature.partition(".")
    return words(database.column(table, column).natural_name)
