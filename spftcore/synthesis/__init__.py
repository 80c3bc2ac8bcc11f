"""Training queries from databases: templates of SQL, filled and verified by execution.

pool = TemplatePool()
for pair in pairs:
    pool.add(extract(pair.sql, catalogue[pair.database]), source="seed")
result = synthesize_sql(pool, list(catalogue.values()), executor, 3000, random.Random(0))
"""

from spftcore.synthesis.extract import Binding, extract, extract_bound
from spftcore.synthesis.filling import fill
from spftcore.synthesis.generate import SynthesisResult, SynthesizedSQL, synthesize_sql
from spftcore.synthesis.pool import PoolEntry, TemplatePool
from spftcore.synthesis.render import FillError, render
from spftcore.synthesis.sql_text import canonical, normalise_sql, print_sql
from spftcore.synthesis.templates import Template, TemplateError

__all__ = [
    "Binding",
    "FillError",
    "PoolEntry",
    "SynthesisResult",
    "SynthesizedSQL",
    "Template",
    "TemplateError",
    "TemplatePool",
    "canonical",
    "extract",
    "extract_bound",
    "fill",
    "normalise_sql",
    "print_sql",
    "render",
    "synthesize_sql",
]
