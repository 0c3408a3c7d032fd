"""What a benchmark says while it runs: bars on a terminal, plain lines elsewhere."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

_LINE_SECONDS: Final = 10.0
Update = Callable[[int], None]
"""Called with how many are done."""


class Voice:
    """Says on ``console`` what is going on; what was measured is not its business."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._context = ""

    def begin(self, context: str) -> None:
        """Name what the next lines are about."""
        self._context = context

    def tell(self, line: str) -> None:
        """Say one thing."""
        self._console.print(f"{self._context}: {line}", markup=False, highlight=False)

    @contextmanager
    def counting(self, what: str, total: int) -> Iterator[Update]:
        """Show how far something has come; yields what to call with the number that is done."""
        if self._console.is_terminal:
            with Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                console=self._console,
                transient=True,
            ) as bars:
                task = bars.add_task(f"{self._context}: {what}", total=total)
                yield lambda done: bars.update(task, completed=done)
            return
        said_at = time.monotonic()

        def update(done: int) -> None:
            nonlocal said_at
            if time.monotonic() - said_at >= _LINE_SECONDS:
                said_at = time.monotonic()
                self.tell(f"{what}: {done:,} of {total:,}")

        yield update
