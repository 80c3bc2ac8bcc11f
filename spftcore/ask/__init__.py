"""Questions to a database, answered by a model: `python -m spftcore.ask --help`."""
