"""Rows turned into columns, as ``unnest`` takes them."""

from collections.abc import Iterable, Sequence
from typing import Any


def columns(rows: Iterable[Sequence[Any]], width: int) -> tuple[list[Any], ...]:
    """The ``width`` columns of ``rows``; empty lists where there are no rows."""
    table = [list(column) for column in zip(*rows, strict=True)]
    return tuple(table) if table else tuple([] for _ in range(width))
