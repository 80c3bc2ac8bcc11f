"""Parts of the catalogue, one concept a file; callers import from `spftcore.databases`."""
