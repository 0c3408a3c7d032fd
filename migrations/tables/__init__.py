"""The tables as SQLAlchemy Core, beside the migrations that make them.

Alembic compares the two: ``alembic check`` is empty when both agree. Every module of this folder
is loaded, so a new one is part of the comparison as soon as it exists.
"""

from importlib import import_module
from pkgutil import iter_modules

from migrations.tables.metadata import metadata

for _module in iter_modules(__path__, f"{__name__}."):
    import_module(_module.name)

__all__ = ["metadata"]
