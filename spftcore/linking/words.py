"""Words of questions, names and values: how they are cut, and which forms count as one."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from functools import lru_cache

from spftcore.databases import natural_name

_WORD = re.compile(r"[^\W_]+")
_VOWEL = re.compile(r"[aeiouy]")
_QUOTED = re.compile(r"\"([^\"]+)\"|(?<!\w)'((?:[^']|'(?=\w))+)'(?!\w)|[“‘]([^”’]+)[”’]")

# Words that a question has for its own sake; a value made of them alone is hardly meant.
_STOP_WORDS = """
    a about all an and any are as at be been both by can could did do does each either every find
    for from get give had has have having he her him his how i if in into is it its list many me
    more most much my no not of on one or other our out over per please return she show some such
    tell than that the their them there these they this those to under up us was we were what when
    where which who whom whose why will with would you your
"""
STOP_WORDS = frozenset(_STOP_WORDS.split())

# What questions and data call by different words: countries with their people and languages,
# abbreviations of states, months, days and sexes, small numbers. General knowledge, kept small.
_KINDRED = """
    afghanistan afghan; albania albanian; algeria algerian; argentina argentine argentinian;
    armenia armenian; australia australian; austria austrian; bangladesh bangladeshi;
    belgium belgian; bolivia bolivian; brazil brazilian; bulgaria bulgarian; cambodia cambodian;
    canada canadian; chile chilean; china chinese; colombia colombian; croatia croatian;
    cuba cuban; cyprus cypriot; czech czechia czech_republic; denmark danish dane; egypt egyptian;
    england english; estonia estonian; ethiopia ethiopian; europe european; finland finnish finn;
    france french; georgia georgian; germany german; greece greek; hungary hungarian;
    iceland icelandic; india indian; indonesia indonesian; iran iranian persian; iraq iraqi;
    ireland irish; israel israeli; italy italian; jamaica jamaican; japan japanese;
    jordan jordanian; kenya kenyan; korea korean south_korea; kuwait kuwaiti; latvia latvian;
    lebanon lebanese; lithuania lithuanian; malaysia malaysian; mexico mexican; mongolia mongolian;
    morocco moroccan; netherlands dutch holland the_netherlands; nigeria nigerian;
    norway norwegian; pakistan pakistani; peru peruvian; philippines filipino; poland polish pole;
    portugal portuguese; romania romanian; russia russian russian_federation; scotland scottish;
    serbia serbian; singapore singaporean; slovakia slovak; slovenia slovenian; spain spanish;
    sweden swedish swede; switzerland swiss; thailand thai; turkey turkish; ukraine ukrainian;
    usa us american america united_states united_states_of_america;
    uk gb britain british united_kingdom great_britain; venezuela venezuelan;
    vietnam vietnamese; wales welsh; africa african; asia asian;
    alabama al; alaska ak; arizona az; arkansas ar; california ca; colorado co; connecticut ct;
    delaware de; florida fl; georgia ga; hawaii hi; idaho id; illinois il; indiana in; iowa ia;
    kansas ks; kentucky ky; louisiana la; maine me; maryland md; massachusetts ma; michigan mi;
    minnesota mn; mississippi ms; missouri mo; montana mt; nebraska ne; nevada nv;
    new_hampshire nh; new_jersey nj; new_mexico nm; new_york ny; north_carolina nc;
    north_dakota nd; ohio oh; oklahoma ok; oregon or; pennsylvania pa; rhode_island ri;
    south_carolina sc; south_dakota sd; tennessee tn; texas tx; utah ut; vermont vt; virginia va;
    washington wa; west_virginia wv; wisconsin wi; wyoming wy; los_angeles la;
    male man boy m; female woman girl f; male men; female women; true yes; false no;
    monday mon; tuesday tue; wednesday wed; thursday thu; friday fri; saturday sat; sunday sun;
    january jan; february feb; march mar; april apr; june jun; july jul; august aug;
    september sep sept; october oct; november nov; december dec;
    one 1 first; two 2 second; three 3 third; four 4 fourth; five 5 fifth; six 6; seven 7;
    eight 8; nine 9; ten 10
"""


# Forms that no ending gives away, by their stem.
_IRREGULAR = """
    taught teach; took taken take; bought buy; sold sell; wrote written write; flew flown fly;
    won win; held hold; made make; paid pay; spent spend; ran run; sent send; led lead;
    sang sung sing; gave given give; drove driven drive; built build; left leave; lent lend;
    got get; grew grown grow; chose chosen choose; fought fight; lost lose; met meet; said say;
    spoke spoken speak; told tell; thought think; knew known know; began begun begin;
    people person; men man; women woman; children child; feet foot; mice mouse; teeth tooth
"""


def words(text: str) -> list[str]:
    """Lower-case words of a text; punctuation separates them."""
    return _WORD.findall(text.lower())


def fold(text: str) -> str:
    """A text without case and accents: `São` and `SAO` both give `sao`."""
    if text.isascii():
        return text.lower()
    decomposed = unicodedata.normalize("NFKD", text.casefold())
    return "".join(c for c in decomposed if not unicodedata.combining(c))


_FORMS = {form: group.split()[-1] for group in _IRREGULAR.split(";") for form in group.split()[:-1]}


@lru_cache(maxsize=65536)
def stem(word: str) -> str:
    """A folded English word without the endings of plural, past and -ing.

    Two forms of one word mostly agree; what comes out is no word: `cities` and `city` give
    `city`, `named` and `names` give `nam`.
    """
    word = _FORMS.get(word, word)
    if len(word) <= 3 or not word.isalpha() or not word.isascii():
        return word
    if word.endswith("ies") and len(word) > 4:
        word = word[:-3] + "y"
    elif word.endswith(("sses", "shes", "ches", "xes", "zes")):
        word = word[:-2]
    elif word.endswith("s") and not word.endswith(("ss", "us", "is")):
        word = word[:-1]
    for ending in ("ing", "ed"):
        root = word[: -len(ending)]
        if word.endswith(ending) and len(root) > 2 and _VOWEL.search(root) and word[-3:] != "eed":
            word = root[:-1] if root[-1] == root[-2] and root[-1] not in "lsz" else root
            break
    return word[:-1] if word.endswith("e") and len(word) > 3 else word


def key_of(text: str) -> str:
    """What two spellings of one value share: the stems of its words, joined by blanks."""
    return " ".join([stem(word) for word in _WORD.findall(fold(text))])


def name_words(name: str, natural: str = "") -> tuple[tuple[str, ...], ...]:
    """Stems of an identifier's words, and as a second reading of its natural name's where they
    differ."""
    readings = dict.fromkeys(
        tuple(dict.fromkeys(stem(word) for word in _WORD.findall(fold(text))))
        for text in (natural, natural_name(name))
    )
    return tuple(reading for reading in readings if reading)


def _groups(text: str) -> dict[str, tuple[str, ...]]:
    others: dict[str, dict[str, None]] = {}
    for group in text.split(";"):
        keys = [key_of(word) for word in group.split()]
        for one in keys:
            others.setdefault(one, {}).update(dict.fromkeys(k for k in keys if k != one))
    return {word: tuple(found) for word, found in others.items()}


KINDRED = _groups(_KINDRED)


@dataclass(frozen=True, slots=True)
class Token:
    """A word of a question.

    `stem` is its compared form; `start` and `end` are its place in the text; `quoted` and
    `capital` say how it is written.
    """

    text: str
    stem: str
    start: int
    end: int
    quoted: bool
    capital: bool


@lru_cache(maxsize=256)
def tokens(question: str) -> tuple[Token, ...]:
    """The words of a question in their order."""
    quotes = [match.span() for match in _QUOTED.finditer(question)]
    return tuple(
        Token(
            match.group(),
            stem(fold(match.group())),
            *match.span(),
            quoted=any(start <= match.start() < end for start, end in quotes),
            capital=match.group()[0].isupper(),
        )
        for match in _WORD.finditer(question)
    )


def within_one_edit(left: str, right: str) -> bool:
    """Whether one letter added, left out, changed, or swapped with its neighbour makes one word
    of the other."""
    if left == right:
        return True
    if abs(len(left) - len(right)) > 1:
        return False
    start = 0
    for a, b in zip(left, right, strict=False):
        if a != b:
            break
        start += 1
    a, b = left[start:], right[start:]
    if len(a) == len(b):
        return a[1:] == b[1:] or (a[:2] == b[1::-1] and a[2:] == b[2:])
    return a[1:] == b or a == b[1:]
