"""The face of the executor: run untrusted SQL in batches and judge it against gold queries.

    with Executor() as executor:
        outcomes = executor.execute([("shop.sqlite", "SELECT count(*) FROM product")])
        verdicts = executor.verify([("shop.sqlite", gold, [candidate, other])])

The work is done in C++ (`csrc/`) on the SQLite inside `apsw`, in threads, without the GIL. The
rules of the comparison, the limits and the sandbox are explained in `docs/executor.md`.
"""

from spftcore.verify.executor import Compare, Executor, Item
from spftcore.verify.outcomes import Fetched, Judgement, Limits, Outcome, Status, Verdict
from spftcore.verify.results import Outcomes, Verdicts
from spftcore.verify.stability import Stability

__all__ = [
    "Compare",
    "Executor",
    "Fetched",
    "Item",
    "Judgement",
    "Limits",
    "Outcome",
    "Outcomes",
    "Stability",
    "Status",
    "Verdict",
    "Verdicts",
]
