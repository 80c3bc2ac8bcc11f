"""A page of samples of synthesized pairs, to be looked at before anything is trained on them."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2

from spftcore.databases import Database
from spftcore.pairs import Pair

SHOWN = 200  # pairs on the page, spread over the databases


def write_sheet(
    path: Path,
    title: str,
    pairs: Sequence[Pair],
    summary: Mapping[str, Any],
    catalogue: Mapping[str, Database],
) -> None:
    """Writes the page.

    Args:
        path: HTML file.
        title: heading.
        pairs: all pairs, of which a sample is shown.
        summary: counts: `pairs`, `draws`, `rejections`, `writers`, `databases`, `difficulties`.
        catalogue: their databases.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("spftcore", "templates"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    page = environment.get_template("sheet.html.j2").render(
        title=title,
        sample=sample(pairs, SHOWN),
        summary=summary,
        rejections=sorted(summary["rejections"].items(), key=lambda item: (-item[1], item[0])),
        databases=[
            (name, summary["databases"].get(name, 0), len(database.tables))
            for name, database in catalogue.items()
        ],
    )
    path.write_text(page, encoding="utf-8")


def sample(pairs: Sequence[Pair], count: int) -> list[Pair]:
    """Up to `count` pairs, as many of each database as come out even, in the order of the pairs."""
    rng = random.Random(0)
    by_database: dict[str, list[int]] = {}
    for index, pair in enumerate(pairs):
        by_database.setdefault(pair.database, []).append(index)
    waiting = [rng.sample(indices, len(indices)) for indices in by_database.values()]
    chosen: list[int] = []
    while waiting and len(chosen) < count:
        for indices in waiting[: count - len(chosen)]:
            chosen.append(indices.pop())
        waiting = [indices for indices in waiting if indices]
    return [pairs[index] for index in sorted(chosen)]
