"""Waiting for a condition, with the patience that a loaded machine needs.

A wait ends as soon as its condition holds, so the patience costs nothing where all is well; it is
long because two cores may carry a broker, a database and several workers while a test waits.
"""

import asyncio
import time
from collections.abc import Callable
from typing import Final

_PATIENCE: Final = 120.0


def wait_until(
    condition: Callable[[], bool], what: str, *, seconds: float = _PATIENCE, pause: float = 0.05
) -> None:
    """Return when ``condition`` holds.

    Raises:
        AssertionError: It did not within ``seconds``.
    """
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"after {seconds:.0f} s still not so: {what}"
        time.sleep(pause)


async def eventually(
    condition: Callable[[], bool], what: str, *, seconds: float = _PATIENCE
) -> None:
    """Return when ``condition`` holds; what runs in this loop goes on meanwhile.

    Raises:
        AssertionError: It did not within ``seconds``.
    """
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"after {seconds:.0f} s still not so: {what}"
        await asyncio.sleep(0.02)
