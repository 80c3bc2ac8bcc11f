"""The grammar of one database's queries, for engines that decode under a grammar.

SELECT statements of SQLite whose tables and columns are those of the database, as EBNF of the kind
that xgrammar, llguidance and llama.cpp read. What a grammar cannot say stays open: that a column
belongs to the table behind an alias, that types fit, that an alias was introduced.
"""

from __future__ import annotations

import re
import string
from collections.abc import Iterable

from spftcore.catalogue.schema import Database

# Names beyond so many characters are not spelled out: any identifier may stand there. An engine
# compiles the grammar for its whole vocabulary before the first token.
MAX_NAME_CHARACTERS = 40_000
OWN_CHARACTERS = 20  # of names, that the rules of one table's own columns count as

FUNCTIONS = tuple(
    """
    abs avg char coalesce count date datetime dense_rank first_value format glob group_concat hex
    ifnull iif instr julianday lag last_value lead length like lower ltrim max min nth_value ntile
    nullif percent_rank printf quote rank replace round row_number rtrim sign sqrt strftime substr
    substring sum time total trim typeof unicode unixepoch upper
    """.split()  # noqa: SIM905
)

_PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")

# Names that SQLite does not take bare, or takes for something else, where a column or table may
# stand.
_RESERVED = frozenset(
    """
    add all alter and as autoincrement between case cast check collate commit constraint create
    current_date current_time current_timestamp default deferrable delete distinct drop else escape
    except exists foreign from group having in index insert intersect into is isnull join limit not
    nothing notnull null on or order primary raise references returning select set table then to
    transaction union unique update using values when where
    """.split()  # noqa: SIM905
)

_LOWER = str.maketrans(string.ascii_uppercase, string.ascii_lowercase)

# `sp` is white space that must be, `o` white space that may be; a few characters at most, so that
# a model cannot go on with blanks for ever. Texts and numbers are bounded for the same reason.
_RULES = """
root ::= o query o ";"?
query ::= select (sp compound sp select)* (sp order)? (sp limit)?
compound ::= {UNION} (sp {ALL})? | {INTERSECT} | {EXCEPT}
select ::= {SELECT} (sp ({DISTINCT} | {ALL}))? sp items body | {SELECT} sp {DISTINCT} bracketed body
bracketed ::= "(" o expr o ")" (o "," o items)?
body ::= from? (sp where)? (sp group)?
items ::= item (o "," o item)*
item ::= "*" | qualifier "." "*" | expr (sp {AS} sp label)?
from ::= sp {FROM} sp source (o "," o source | sp join)*
source ::= table (sp ({AS} sp)? alias)? | "(" o query o ")" (o ({AS} sp)? alias)?
join ::= kind {JOIN} sp source (sp {ON} sp expr | sp {USING} o "(" o columns o ")")?
columns ::= column (o "," o column)*
kind ::= ({NATURAL} sp)? (({INNER} | {CROSS} | ({LEFT} | {RIGHT} | {FULL}) (sp {OUTER})?) sp)?
where ::= {WHERE} sp expr
group ::= {GROUP} sp {BY} sp exprs (sp {HAVING} sp expr)?
order ::= {ORDER} sp {BY} sp sorted (o "," o sorted)*
sorted ::= expr (sp ({ASC} | {DESC}))? (sp {NULLS} sp ({FIRST} | {LAST}))?
limit ::= {LIMIT} sp integer (sp {OFFSET} sp integer | o "," o integer)?
exprs ::= expr (o "," o expr)*
expr ::= conjunction (sp {OR} sp conjunction)*
conjunction ::= negation (sp {AND} sp negation)*
negation ::= ({NOT} sp)? (test | {EXISTS} o "(" o query o ")")
test ::= sum rest*
rest ::= o compare o sum | sp {IS} sp ({NOT} sp)? sum | sp ({NOT} sp)? membership
membership ::= like | {IN} o "(" o (query | exprs) o ")" | {BETWEEN} sp sum sp {AND} sp sum
like ::= ({LIKE} | {GLOB}) sp sum (sp {ESCAPE} sp text)?
compare ::= "=" "="? | "<" [=>]? | ">" "="? | "!="
sum ::= product (o ("+" | "-" | "||") o product)*
product ::= factor (o [*/%] o factor)*
factor ::= [-+]? (value | reference | call | cast | choice | "(" o (query | exprs) o ")")
call ::= function o "(" o (("*" | ({DISTINCT} sp)? exprs) o)? ")" (sp {OVER} o "(" o window o ")")?
window ::= ({PARTITION} sp {BY} sp exprs (sp order)?)? | order
cast ::= {CAST} o "(" o expr sp {AS} sp type o ")"
type ::= {INTEGER} | {INT} | {REAL} | {FLOAT} | {TEXT} | {NUMERIC} | {DATE}
choice ::= {CASE} (sp expr)? (sp {WHEN} sp expr sp {THEN} sp expr)+ (sp {ELSE} sp expr)? sp {END}
value ::= text | number | {NULL} | {CURRENT_DATE} | {CURRENT_TIMESTAMP}
text ::= "'" ([^'\\n] | "''"){0,120} "'" | "\\"" ([^"\\n] | "\\"\\""){0,120} "\\""
number ::= integer ("." [0-9]{0,12})? | "." integer
integer ::= [0-9]{1,15}
label ::= [A-Za-z_] [A-Za-z0-9_]{0,40} | text
alias ::= [A-Za-z] [0-9]{0,2}
sp ::= [ \\t\\n\\r]{1,4}
o ::= [ \\t\\n\\r]{0,4}
"""


def sql_grammar(database: Database) -> str:
    """EBNF (GBNF) of the SELECT statements over a database; its start symbol is `root`.

    Keywords and names are taken in any case. Every name may be quoted; those that need it must be.
    Beyond 40,000 characters of names any identifier may stand for a column, and beyond that for a
    table, so that the grammar's size stays bounded.
    """
    tables = [table.name for table in database.tables]
    columns = list(dict.fromkeys(_folded(c.name) for t in database.tables for c in t.columns))
    budget = MAX_NAME_CHARACTERS - sum(map(len, tables))
    lines = [_keywords(line) for line in _RULES.strip().splitlines()]
    lines.append("function ::= " + " | ".join(_any_case(name) for name in FUNCTIONS))
    lines += _names("table", tables if budget >= 0 else None)
    budget -= sum(map(len, columns))
    lines += _names("column", [*columns, "rowid"] if budget >= 0 else None)
    own = [f"own{i}" for i in range(len(tables))]
    budget -= sum(len(column.name) for table in database.tables for column in table.columns)
    budget -= OWN_CHARACTERS * len(tables)
    if budget >= 0 and tables:  # a table's name before the point leaves that table's columns
        for rule, table in zip(own, database.tables, strict=True):
            lines += _names(f"{rule}t", [table.name])
            lines += _names(f"{rule}c", [column.name for column in table.columns])
            lines.append(f'{rule} ::= {rule}t "." {rule}c')
        lines.append(f'reference ::= column | alias | alias "." column | {" | ".join(own)}')
    else:
        lines.append('reference ::= column | alias | qualifier "." column')
    lines.append("qualifier ::= table | alias")
    return "\n".join(lines) + "\n"


def _keywords(line: str) -> str:
    return re.sub(r"\{([A-Z_]+)\}", lambda found: _any_case(found[1]), line)


def _folded(name: str) -> str:
    """A name in lower case as far as SQLite takes both cases for one: ASCII letters alone."""
    return name.translate(_LOWER)


def _any_case(text: str) -> str:
    """A text as EBNF that takes it in any case (ASCII, as SQLite folds names)."""
    parts: list[str] = []
    literal = ""
    for character in text:
        if character.isascii() and character.isalpha():
            if literal:
                parts.append(f'"{literal}"')
                literal = ""
            parts.append(f"[{character.lower()}{character.upper()}]")
        else:
            literal += _escaped(character)
    if literal:
        parts.append(f'"{literal}"')
    return " ".join(parts) or '""'


def _escaped(character: str) -> str:
    if character in '"\\':
        return "\\" + character
    if character.isprintable():
        return character
    return f"\\u{ord(character):04x}" if ord(character) < 0x10000 else f"\\U{ord(character):08x}"


def _names(rule: str, names: Iterable[str] | None) -> list[str]:
    """Rules for names of a kind, bare or quoted; None: any identifier."""
    if names is None:
        return [f"{rule} ::= [A-Za-z_] [A-Za-z0-9_]{{0,60}} | text"]
    plain: list[str] = []
    odd: list[str] = []
    for name in dict.fromkeys(map(_folded, names)):
        bare = _PLAIN.fullmatch(name) and name.lower() not in _RESERVED
        (plain if bare else odd).append(name)
    lines, forms = [], []
    if plain:
        lines.append(f"{rule}n ::= " + " | ".join(map(_any_case, plain)))
        forms += [f"{rule}n", f'"\\"" {rule}n "\\""', f'"`" {rule}n "`"', f'"[" {rule}n "]"']
    for quote, closed in (('"', '"'), ("`", "`"), ("[", "]")):
        held = [name for name in odd if quote != "[" or "]" not in name]
        if held:
            doubled = [name.replace(closed, closed * 2) for name in held]
            found = " | ".join(map(_any_case, doubled))
            lines.append(f"{rule}{ord(quote)} ::= {found}")
            forms.append(f'"{_escaped(quote)}" {rule}{ord(quote)} "{_escaped(closed)}"')
    # A table without a column that can be named takes a text, which SQLite reads as one.
    lines.append(f"{rule} ::= " + (" | ".join(forms) or "text"))
    return lines
