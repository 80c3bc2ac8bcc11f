"""The pool of templates: how often each is used and drawn, and its text form for people."""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from importlib.resources import files
from itertools import accumulate
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

from spftcore.errors import SpftError
from spftcore.metrics.hardness import Hardness, hardness
from spftcore.synthesis.templates import Template, TemplateError

_HEADER = """\
# Templates of SQL, one after another; docs/synthesis.md says what the slots mean.
# A line `# uses SOURCE=COUNT …` before a template says how often it is used and by whom;
# without one it counts as one use. Indented lines go on with the line above. Other lines
# that start with # are remarks.
"""
_USES = re.compile(r"#\s*uses\b(.*)")
_USE = re.compile(r"(\S+)=(\d+)\Z")


@dataclass
class PoolEntry:
    """A template of the pool.

    Attributes:
        template: the template.
        sources: its uses by source.
        prior: its weight before any feedback.
        weight: its present weight in the draw.
    """

    template: Template
    sources: Counter[str]
    prior: float
    weight: float

    @property
    def count(self) -> int:
        return sum(self.sources.values())


class TemplatePool:
    """Templates with weights: at first by how often the sources use them."""

    def __init__(self) -> None:
        self._entries: dict[str, PoolEntry] = {}
        # What `draw` chooses from, by difficulty ('' for all): ids and their summed weights.
        self._cumulative: dict[str, tuple[list[str], list[float]]] = {}

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[PoolEntry]:
        return iter(self._entries.values())

    def __getitem__(self, template_id: str) -> PoolEntry:
        return self._entries[template_id]

    def __contains__(self, template_id: object) -> bool:
        return template_id in self._entries

    @classmethod
    def builtin(cls) -> TemplatePool:
        """The library of templates that comes along, for databases without pairs."""
        text = files("spftcore.synthesis").joinpath("library.txt").read_text(encoding="utf-8")
        return cls.from_text(text, "the built-in library")

    def add(self, template: Template, source: str, count: int = 1) -> None:
        """Count one more use of a template; equal texts are one template."""
        self._add(template, Counter({source: count}), float(count))

    def _add(self, template: Template, sources: Counter[str], weight: float) -> None:
        entry = self._entries.get(template.id)
        if entry is None:
            entry = self._entries[template.id] = PoolEntry(template, Counter(), 0.0, 0.0)
        entry.sources.update(sources)
        entry.prior += weight
        entry.weight += weight
        self._cumulative.clear()

    def merge(self, other: TemplatePool, share: float | None = None) -> None:
        """Take over the templates of another pool; uses of equal templates add up.

        Args:
            share: how much of all weight the other pool's uses get together, 0 < share < 1; by
                default every use counts alike, whichever pool it comes from.
        """
        if share is not None and not 0.0 < share < 1.0:
            raise ValueError(f"share must lie between 0 and 1, not {share}")
        here, there = (sum(entry.prior for entry in pool) for pool in (self, other))
        factor = 1.0
        if share is not None and here > 0 and there > 0:
            factor = here * share / (1.0 - share) / there
        for entry in other:
            self._add(entry.template, entry.sources, entry.prior * factor)

    def weights(self) -> dict[str, float]:
        """The chance of each template to be drawn, by id; they sum to 1."""
        total = sum(entry.weight for entry in self)
        return {key: entry.weight / total for key, entry in self._entries.items()}

    def reweight(self, wrong_template_ids: Collection[str], floor: float) -> None:
        """Lean towards the templates of wrong answers (y⁻ of Eq. 1).

        A template's chance becomes floor × its share before any feedback + (1 − floor) × its share
        among the wrong answers, so that none dies while floor > 0. Ids the pool does not know are
        ignored; without known ones the chances are those before any feedback.
        """
        if not 0.0 <= floor <= 1.0:
            raise ValueError(f"floor must lie between 0 and 1, not {floor}")
        wrong = Counter(key for key in wrong_template_ids if key in self._entries)
        total = sum(entry.prior for entry in self)
        for key, entry in self._entries.items():
            share = entry.prior / total
            if wrong:
                share = floor * share + (1.0 - floor) * wrong[key] / wrong.total()
            entry.weight = share
        self._cumulative.clear()

    def draw(self, rng: random.Random, wanted: Hardness | None = None) -> Template:
        """One template by weight, of one difficulty if asked. IndexError when there is none."""
        keys, cumulative = self._of(wanted)
        return self._entries[rng.choices(keys, cum_weights=cumulative)[0]].template

    def has(self, wanted: Hardness) -> bool:
        """Whether some template of that difficulty can be drawn."""
        return bool(self._of(wanted)[0])

    def _of(self, wanted: Hardness | None) -> tuple[list[str], list[float]]:
        if (wanted or "") not in self._cumulative:
            keys = [
                key
                for key, entry in self._entries.items()
                if entry.weight > 0 and wanted in (None, hardness(entry.template.text))
            ]
            weights = [self._entries[key].weight for key in keys]
            self._cumulative[wanted or ""] = (keys, list(accumulate(weights)))
        return self._cumulative[wanted or ""]

    # For the run store, and for people

    def to_dicts(self) -> list[dict[str, Any]]:
        """Plain records (text, sources, weight) for the run store."""
        return [
            {"text": e.template.text, "sources": dict(e.sources), "weight": e.weight} for e in self
        ]

    @classmethod
    def from_dicts(cls, records: Collection[dict[str, Any]]) -> TemplatePool:
        """The pool that `to_dicts` wrote; its weights are those before any feedback."""
        pool = cls()
        for record in records:
            pool._add(Template(record["text"]), Counter(record["sources"]), record["weight"])
        return pool

    def to_text(self) -> str:
        """The templates with their uses, the most used first; weights of feedback are not in it."""
        parts = [_HEADER]
        for entry in sorted(self, key=lambda entry: (-entry.count, entry.template.text)):
            uses = " ".join(
                f"{quote(name, safe='')}={count}" for name, count in sorted(entry.sources.items())
            )
            parts.append(f"# uses {uses}\n{entry.template.text}\n")
        return "\n".join(parts)

    @classmethod
    def from_text(cls, text: str, name: str = "the text", source: str = "file") -> TemplatePool:
        """The pool that `to_text` wrote, or a person.

        Args:
            text: the templates.
            name: what errors call it.
            source: where a template without a `# uses` line comes from.

        Raises:
            SpftError: a template or a `# uses` line is malformed; the message names the line.
        """
        pool = cls()
        for number, template_text, uses in _blocks(text, name):
            template = Template(template_text)
            try:
                _ = template.compiled
            except TemplateError as error:
                raise _wrong(name, number, str(error)) from error
            sources = uses or Counter({source: 1})
            pool._add(template, sources, float(sources.total()))
        return pool

    def write(self, path: Path) -> None:
        """Write the text form. Raises SpftError when the file cannot be written."""
        try:
            path.write_text(self.to_text(), encoding="utf-8")
        except OSError as error:
            raise SpftError(
                f"The templates cannot be written to {path} ({error.strerror}). Check the folder "
                "and its permissions."
            ) from error

    @classmethod
    def read(cls, path: Path) -> TemplatePool:
        """Read a file of templates; those without uses come from its stem.

        Raises:
            SpftError: the file cannot be read, or holds a malformed template.
        """
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise SpftError(
                f"The templates in {path} cannot be read ({error}). Check the path; the file must "
                "be UTF-8 text."
            ) from error
        return cls.from_text(text, str(path), path.stem)


def _blocks(text: str, name: str) -> Iterator[tuple[int, str, Counter[str]]]:
    """(number of its first line, template, uses) of every template of a text."""
    uses: Counter[str] = Counter()
    number = 0
    parts: list[str] = []
    for position, line in enumerate(text.split("\n"), 1):
        goes_on = line[:1].isspace() and line.strip() and parts
        if parts and not goes_on:
            yield number, " ".join(parts), uses
            parts, uses = [], Counter()
        if match := _USES.match(line):
            for word in match.group(1).split():
                use = _USE.match(word)
                if use is None or int(use.group(2)) < 1:
                    raise _wrong(name, position, f"`{word}` is no SOURCE=COUNT with a count from 1")
                uses[unquote(use.group(1))] += int(use.group(2))
        elif line.strip() and not line.startswith("#"):
            number = number if goes_on else position
            parts.append(line.strip())
    if parts:
        yield number, " ".join(parts), uses


def _wrong(name: str, line: int, cause: str) -> SpftError:
    return SpftError(
        f"Line {line} of {name}: {cause}. Correct the line or remove it; docs/synthesis.md says "
        "how templates are written."
    )
