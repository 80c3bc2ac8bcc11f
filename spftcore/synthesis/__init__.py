"""Training queries from databases: templates of SQL, filled and verified by execution."""

from spftcore.synthesis.sql_text import canonical, normalise_sql, print_sql

__all__ = ["canonical", "normalise_sql", "print_sql"]
