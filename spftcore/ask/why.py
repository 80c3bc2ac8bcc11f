"""How an answer came about: what was linked, what the model saw, what else it wrote."""

from __future__ import annotations

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from spftcore.ask.session import Session
from spftcore.ask.values import shown
from spftcore.errors import SpftError
from spftcore.inference.answering import Answered
from spftcore.printable import printable
from spftcore.verify import Outcome


def print_why(console: Console, session: Session) -> None:
    """Explains the last answer.

    Raises:
        SpftError: there is none.
    """
    answered = session.last.answered if session.last else None
    if answered is None:
        raise SpftError("There is no answer of the model to explain. Ask a question first.")
    _print_linking(console, session, answered)
    _heading(console, "The model was shown")
    for line in answered.prompt.splitlines() or ["(nothing)"]:
        console.print(Text(printable(line)), soft_wrap=True)
    if answered.candidates:
        _print_candidates(console, answered)
    else:
        _heading(console, "It gave no SQL")
        console.print(Text(printable(answered.cause)), soft_wrap=True)
    if answered.cut:
        console.print(
            Text(f"{answered.cut} of its answers were cut at prompt.max_completion_tokens."),
            soft_wrap=True,
        )
    repaired = answered.repaired
    if repaired is not None:
        _heading(console, "Second try")
        console.print(Text(f"It was told: {printable(repaired.message)}"), soft_wrap=True)
        console.print(Text(f"It wrote: {printable(repaired.second) or '(no SQL)'}"), soft_wrap=True)
        ending = "taken" if repaired.taken else "not taken: it does no better"
        if repaired.outcome is not None and not repaired.outcome.ran:
            ending = f"not taken: {printable(repaired.outcome.message)}"
        console.print(Text(ending), soft_wrap=True)


def _heading(console: Console, text: str) -> None:
    console.print(Text(text, "bold"))


def _print_linking(console: Console, session: Session, answered: Answered) -> None:
    asked = answered.question
    view, values = session.answerer.prompting.renderer.linking(
        asked.question, asked.database, asked.evidence
    )
    if view is not None:
        _heading(console, "Tables and columns, by log-odds of being needed")
        for table in sorted(view.tables, key=lambda t: -t.score):
            columns = sorted(
                zip(table.columns, table.column_scores, strict=True), key=lambda c: -c[1]
            )
            names = ", ".join(f"{printable(c.name)} {score:+.1f}" for c, score in columns)
            line = Text.assemble((printable(table.table.name), "cyan"), f" {table.score:+.1f}: ")
            console.print(line + Text(names), soft_wrap=True)
    _heading(console, "Values of the database that the question names")
    for match in values:
        place = f"{printable(match.table)}.{printable(match.column)}"
        console.print(Text(f"{place} = {shown(match.value, 60)}  ({match.score:.2f})"))
    if not values:
        console.print(Text("none"))


def _print_candidates(console: Console, answered: Answered) -> None:
    _heading(console, "Answers")
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for name, side in (("drawn", "right"), ("log-prob", "right"), ("result", "left")):
        table.add_column(name, justify="right" if side == "right" else "left")
    table.add_column("SQL", overflow="fold")
    names: dict[str, str] = {}
    for candidate in answered.candidates:
        chosen = answered.choice is not None and candidate is answered.choice.candidate
        table.add_row(
            str(candidate.completions),
            f"{candidate.logprob:.2f}",
            Text(_result(candidate.outcome, names)),
            Text(printable(candidate.sql), "bold" if chosen else ""),
        )
    console.print(table)
    console.print(Text(f"Taken: {answered.reason}."), soft_wrap=True)


def _result(outcome: Outcome, names: dict[str, str]) -> str:
    """A letter for each different result, with its size; or why there is none."""
    if not outcome.ran:
        return shown(outcome.message or outcome.status.name.lower(), 40)
    letter = names.setdefault(outcome.fingerprint, _letter(len(names)))
    rows = f"{outcome.rows:,} row{'' if outcome.rows == 1 else 's'}"
    return f"{letter}: {rows}"


def _letter(number: int) -> str:
    return chr(ord("A") + number % 26) * (1 + number // 26)
