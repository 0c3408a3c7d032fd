"""How far a load has come: bars on a terminal, a line now and then elsewhere."""

import time
from collections.abc import Callable
from types import TracebackType
from typing import Final, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.text import Text

_LINE_SECONDS: Final = 2.0


class LoadProgress:
    """Shows how many requests are sent and how many executions have ended.

    Args:
        console: Where to; what it shows is not the command's answer, so best standard error.
        count: How many there will be.
        follows: Whether ends are followed at all.
        seconds: A clock that never goes back.
    """

    def __init__(
        self,
        console: Console,
        count: int,
        *,
        follows: bool,
        seconds: Callable[[], float] = time.monotonic,
    ) -> None:
        self._console = console
        self._count = count
        self._seconds = seconds
        self._last_line = seconds()
        self._shown: tuple[int, int] | None = None
        self._bars: Progress | None = None
        if console.is_terminal:
            self._bars = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                console=console,
                transient=True,
            )
            self._sent = self._bars.add_task("sent", total=count)
            self._ended = self._bars.add_task("ended", total=count) if follows else None

    def show(self, sent: int, ended: int) -> None:
        """Say how far it has come; may be called as often as one likes."""
        if self._bars is not None:
            self._bars.update(self._sent, completed=sent)
            if self._ended is not None:
                self._bars.update(self._ended, completed=ended)
        elif self._seconds() - self._last_line >= _LINE_SECONDS and (sent, ended) != self._shown:
            self._last_line = self._seconds()
            self._shown = (sent, ended)
            self._console.print(Text(f"… {sent} of {self._count} sent, {ended} ended"))

    def __enter__(self) -> Self:
        if self._bars is not None:
            self._bars.start()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._bars is not None:
            self._bars.stop()
