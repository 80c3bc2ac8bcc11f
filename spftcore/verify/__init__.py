"""The face of the executor: run untrusted SQL in batches and judge it against gold queries.

    with Executor() as executor:
        outcomes = executor.execute([("shop.sqlite", "SELECT count(*) FROM product")])
        judgements = executor.verify([("shop.sqlite", gold, [candidate, other])])

The work is done in C++ (`csrc/`) on the SQLite inside `apsw`, in threads, without the GIL. The
rules of the comparison, the limits and the sandbox are explained in `docs/executor.md`.
"""

from spftcore.verify.executor import Executor
from spftcore.verify.outcomes import Judgement, Limits, Outcome, Status, Verdict

__all__ = ["Executor", "Judgement", "Limits", "Outcome", "Status", "Verdict"]
