"""A clock that remembers what it was asked to wait."""

import asyncio

from agents.runtime.testing import ManualClock


class RecordingClock(ManualClock):
    """A clock that stands still but for its sleeps, which take no time."""

    def __init__(self) -> None:
        super().__init__()
        self.sleeps: list[float] = []
        self.slept = asyncio.Event()

    async def sleep(self, seconds: float) -> None:
        self.sleeps.append(seconds)
        self.slept.set()
        await super().sleep(seconds)
        await asyncio.sleep(0)  # as a real sleep does, it lets others have their turn
