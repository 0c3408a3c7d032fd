"""What a scenario measured: figures with their goals, tables behind them, JSON and Markdown."""

import json
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Literal

import psutil
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

Cell = str | float | None
_HEADINGS: Final = ("figure", "Millstream", "by hand", "ratio", "goal")


@dataclass(frozen=True, slots=True)
class Goal:
    """What a figure should be.

    Attributes:
        of: Whether our own value or its ratio to the other one is meant.
        least: It should not be below this.
        most: It should not be above this.
    """

    of: Literal["value", "ratio"]
    least: float | None = None
    most: float | None = None

    def is_met(self, figure: "Figure") -> bool | None:
        """Whether ``figure`` is as it should be; ``None`` if it was not measured."""
        value = figure.value if self.of == "value" else figure.ratio
        if value is None:
            return None
        return (self.least is None or value >= self.least) and (
            self.most is None or value <= self.most
        )

    def __str__(self) -> str:
        sign, bound = ("≥", self.least) if self.most is None else ("≤", self.most)
        return f"{sign} {number(bound)}{'×' if self.of == 'ratio' else ''}"


@dataclass(frozen=True, slots=True)
class Figure:
    """One line of the table.

    Attributes:
        name: What was measured, with its unit.
        value: What Millstream came to.
        by_hand: What the hand-written chain came to, if it was measured.
        compared_to: What ``value`` is divided by for the ratio; ``by_hand`` if not given.
        goal: What it should be, if there is a goal.
    """

    name: str
    value: float | None
    by_hand: float | None = None
    compared_to: float | None = None
    goal: Goal | None = None

    @property
    def ratio(self) -> float | None:
        """Our value divided by the other one."""
        other = self.by_hand if self.compared_to is None else self.compared_to
        return quotient(self.value, other)

    @property
    def is_met(self) -> bool | None:
        """Whether it is as it should be; ``None`` where there is no goal, or no measurement."""
        return None if self.goal is None else self.goal.is_met(self)

    def cells(self) -> tuple[str, ...]:
        """Its line, with a mark at the goal."""
        mark = {True: " ✓", False: " ✗", None: ""}[self.is_met]
        goal = "" if self.goal is None else f"{self.goal}{mark}"
        ratio = "" if self.ratio is None else f"{self.ratio:.2f}"
        return (self.name, number(self.value), number(self.by_hand), ratio, goal)


@dataclass(frozen=True, slots=True)
class Detail:
    """A table that shows where a figure comes from."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]


@dataclass(frozen=True, slots=True)
class Result:
    """What one scenario came to."""

    title: str
    figures: Sequence[Figure]
    settings: Mapping[str, Any]
    details: Sequence[Detail] = ()
    notes: Sequence[str] = ()
    """What a reader must know to understand the figures, a sentence each."""
    raw: Mapping[str, Any] = field(default_factory=dict)
    """Single measurements, for whoever wants to look closer."""


def quotient(value: float | None, other: float | None) -> float | None:
    """``value`` divided by ``other``, where both are there."""
    return value / other if value is not None and other else None


def number(value: Cell) -> str:
    """A value as a reader wants it, with two or three digits that mean something."""
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if abs(value) >= 100 or value == round(value):
        return f"{value:,.0f}"
    return f"{value:.2f}" if abs(value) >= 0.1 else f"{value:.2g}"


def show(result: Result, console: Console) -> None:
    """Print the figures, what is behind them and what to know about them."""
    figures = [figure.cells() for figure in result.figures]
    console.print(_table(result.title, _HEADINGS, figures))
    for detail in result.details:
        console.print(_table(detail.title, detail.columns, detail.rows))
    for note in result.notes:
        console.print(note, markup=False, highlight=False)


def _table(title: str, columns: Sequence[str], rows: Sequence[Sequence[Cell]]) -> Table:
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    for index, column in enumerate(columns):
        table.add_column(column, justify="right" if index else "left", overflow="fold")
    for row in rows:
        table.add_row(*(escape(number(cell)) for cell in row))
    return table


def save(name: str, result: Result, folder: Path, *, broker: str, seconds: float) -> None:
    """Write ``<name>.json``.

    Args:
        name: The scenario.
        result: What it came to.
        folder: Where to.
        broker: What it was measured on.
        seconds: How long that took.
    """
    folder.mkdir(parents=True, exist_ok=True)
    document = {
        "name": name,
        "title": result.title,
        "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "took_seconds": round(seconds, 1),
        "machine": machine(),
        "broker": broker,
        "settings": dict(result.settings),
        "figures": [
            {
                **asdict(figure),
                "ratio": figure.ratio,
                "goal": None if figure.goal is None else str(figure.goal),
                "is_met": figure.is_met,
                "cells": figure.cells(),
            }
            for figure in result.figures
        ],
        "details": [asdict(detail) for detail in result.details],
        "notes": list(result.notes),
        "raw": dict(result.raw),
    }
    text = json.dumps(document, indent=2, ensure_ascii=False, default=str)
    (folder / f"{name}.json").write_text(text + "\n", encoding="utf-8")


def markdown(folder: Path, names: Sequence[str]) -> str:
    """One table of the figures of all scenarios that have been run, in the order of ``names``."""
    lines = ["| " + " | ".join(_HEADINGS) + " |", "|---|---:|---:|---:|---:|"]
    for name in names:
        path = folder / f"{name}.json"
        if path.exists():
            document = json.loads(path.read_text(encoding="utf-8"))
            lines += ["| " + " | ".join(each["cells"]) + " |" for each in document["figures"]]
    return "\n".join(lines) + "\n"


def machine() -> str:
    """What was measured on."""
    memory = psutil.virtual_memory().total / 2**30
    return (
        f"{os.cpu_count()} cores, {platform.machine()}, {memory:.0f} GiB, {platform.system()}"
        f" {platform.release()}, Python {platform.python_version()}"
    )
