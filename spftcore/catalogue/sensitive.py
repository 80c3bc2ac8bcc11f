"""Which columns look personal or secret, by name and by unmistakable values."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal

from spftcore.catalogue.kinds import Counted
from spftcore.catalogue.schema import Database, Kind, natural_name

Mode = Literal["values", "hide", "show"]

# Names are matched in words (`natural_name`). Some words may follow and keep the meaning; after any
# other word (`phone_model`, `token_count`, `card_type`) a name says something else.
_TAIL = (
    r"( (address(es)?|numbers?|no|nr|num|text|value|home|work|private|primary|hash|digest|\d+))*"
)
DEFAULT_NAMES = (  # also with words before them: `customer_email`
    r"e ?mails?|(e ?)?mail ?address",
    r"\w{0,6}phones?|\w{0,6}phone ?number|mobile|cell ?phone|cell|fax|tel",
    r"pass(word|wd|phrase|code)s?|pwd|pin code|password (hash|salt)|hashed password",
    r"(api|access|private|secret|auth|license) ?keys?|secrets?|credentials?|tokens?",
    r"e?ssn|social security|national (id|identity|insurance)|passport|driving licence"
    r"|drivers? licen[cs]e|ip ?address",
    r"iban|bank account|routing number|credit ?card|debit ?card|card ?number|cvv2?|cvc",
)
DEFAULT_WHOLE_NAMES = (
    r"((user|login|admin|account|db) ?)?pass|pin|salt"
    r"|tax ?id|tax number|vat number|passport id|social security id"
)
_NAME = re.compile(rf"(\w+ )*?({'|'.join(DEFAULT_NAMES)})\d*{_TAIL}|({DEFAULT_WHOLE_NAMES})\d*")
_HARMLESS = re.compile(
    r"(number|count|total|no) of .*|(has|is|wants) .*"
    r"|.*\b(head|micro|saxo|xylo|mega|smart)phones?\b.*"
)
_EMAIL = re.compile(r"[^@\s,;]+@[^@\s,;]+\.[A-Za-z]{2,}")
_IBAN = re.compile(r"[A-Z]{2}\d{2} ?([A-Z0-9]{4} ?){2,7}[A-Z0-9]{1,4}")
_CARD = re.compile(r"\d{4}([ -]?)\d{4}\1\d{4}\1\d{1,7}")
_SSN = re.compile(r"\d{3}-\d{2}-\d{4}")
_PHONE = re.compile(r"\+\d{1,3}[ ().\d-]{7,18}")
_SECRET = re.compile(
    r"\$(2[aby]|argon2\w+|pbkdf2[\w-]*|[156])\$.{8,}"  # password hashes
    r"|eyJ[\w-]{8,}\.[\w-]+\.[\w-]*"  # JSON web tokens
    r"|(sk|pk|rk)[-_](live|test|proj)[-_]\w{8,}|gh[pousr]_\w{20,}|AKIA[A-Z0-9]{16}"
    r"|-----BEGIN .*"
)


@dataclass(frozen=True)
class Sensitivity:
    """What is done about columns that look personal or secret.

    Attributes:
        mode: `values`: such columns keep their names, and their values stay unseen; `hide`: the
            catalogue leaves the columns out altogether; `show`: nothing is sensitive.
        patterns: more of them, as shell patterns on `column` or `table.column` in any case;
            `!pattern` names columns that are harmless whatever they look like.
    """

    mode: Mode = "values"
    patterns: tuple[str, ...] = ()

    def covers(
        self,
        table: str,
        column: str,
        natural: str,
        kind: Kind,
        is_key: bool,
        values: Sequence[Counted],
    ) -> bool:
        """Whether a column is sensitive.

        Args:
            natural: its name in words, as a `tables.json` gives it.
            is_key: part of the primary key.
            values: the most frequent ones with their counts.
        """
        if self.mode == "show":
            return False
        if self._exempts(table, column):
            return False
        names = _full_names(table, column)
        if any(_matches(names, p) for p in self.patterns if not p.startswith("!")):
            return True
        if kind not in ("number", "text"):
            return False
        return _is_sensitive_name(column, natural, is_key) or _are_sensitive_values(values)

    def _exempts(self, table: str, column: str) -> bool:
        names = _full_names(table, column)
        return any(_matches(names, p[1:]) for p in self.patterns if p.startswith("!"))

    def unless_exempt(self, columns: Iterable[tuple[str, str]]) -> frozenset[tuple[str, str]]:
        """The (table, column) that no `!pattern` calls harmless."""
        return frozenset(item for item in columns if not self._exempts(*item))

    def hidden(self, database: Database) -> frozenset[tuple[str, str]]:
        """(table, column) of every column to be left out."""
        if self.mode != "hide":
            return frozenset()
        return frozenset(
            (table.name, column.name)
            for table in database.tables
            for column in table.columns
            if column.sensitive
        )


def _full_names(table: str, column: str) -> tuple[str, str]:
    return column.lower(), f"{table}.{column}".lower()


def _matches(names: Sequence[str], pattern: str) -> bool:
    return any(fnmatchcase(name, pattern.lower().strip()) for name in names)


def _is_sensitive_name(column: str, natural: str, is_key: bool) -> bool:
    names = {natural_name(column), " ".join(natural.lower().split())}
    for name in names:
        if _NAME.fullmatch(name) and not _HARMLESS.fullmatch(name):
            # `phone` as a key numbers the telephones of a shop rather than people's.
            return not is_key or not re.fullmatch(r"phones?|tokens?|mobile", name)
    return False


def _are_sensitive_values(values: Sequence[Counted]) -> bool:
    texts = [
        str(value).strip()
        for value, _ in values
        if isinstance(value, str | int) and str(value).strip()
    ]
    checks: tuple[tuple[Callable[[str], bool], int], ...] = (
        (lambda text: bool(_EMAIL.fullmatch(text)), 1),
        (lambda text: bool(_SECRET.fullmatch(text)), 1),
        (lambda text: bool(_IBAN.fullmatch(text)) and _is_iban(text), 1),
        (lambda text: bool(_SSN.fullmatch(text)), 3),
        (lambda text: bool(_PHONE.fullmatch(text)), 3),
        (lambda text: bool(_CARD.fullmatch(text)) and _is_luhn(text), 5),
    )
    for check, least in checks:
        hits = sum(map(check, texts))
        if hits >= least and 2 * hits >= len(texts):
            return True
    return False


def _is_iban(text: str) -> bool:
    """Whether the check digits of ISO 13616 are right."""
    plain = text.replace(" ", "")
    return int("".join(str(int(sign, 36)) for sign in plain[4:] + plain[:4])) % 97 == 1


def _is_luhn(text: str) -> bool:
    """Whether the check digit of ISO 7812 is right."""
    digits = [int(sign) for sign in text if sign.isdigit()][::-1]
    doubled = (sum(divmod(2 * digit, 10)) for digit in digits[1::2])
    return (sum(digits[::2]) + sum(doubled)) % 10 == 0
