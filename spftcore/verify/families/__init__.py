"""Families: variants of a database on which wrong queries that look right give other rows.

    build_families({"shop": Path("db/shop.sqlite")}, {"shop": golds}, Path("families"))
    family_of(Path("families"), Path("db/shop.sqlite"))      # the variants' files

or `python -m spftcore.verify.families --databases DIR --pairs FILE --output DIR`. How variants are
made and chosen is explained in `docs/families.md`.
"""

from spftcore.verify.families.build import FamilyReport, build_families, family_of

__all__ = ["FamilyReport", "build_families", "family_of"]
