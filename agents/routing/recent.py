"""Runs that the router has written lately, so that they need not be read from JSON again.

The ledger stays the truth: it hands out the document of a run under a lock, and only if that is
the very one that was written here is the run taken from memory.
"""

from collections import OrderedDict
from typing import Final
from uuid import UUID

from agents.routing.run import Run

MOST_BYTES: Final = 2 * 1024 * 1024
"""Bytes of the documents whose runs are kept: about a thousand runs of a few steps each. As values
they take ten times as much."""


class RecentRuns:
    """Remembers runs by the execution and the document that they were written as."""

    def __init__(self) -> None:
        self._runs: OrderedDict[tuple[str, UUID], tuple[bytes, Run]] = OrderedDict()
        self._bytes = 0

    def read(self, lane: str, correlation_id: UUID, document: bytes) -> Run:
        """The run that ``document`` holds.

        Raises:
            ValidationError: The document is none of a run.
        """
        found = self._runs.get((lane, correlation_id))
        if found is not None and found[0] == document:
            return found[1]
        return Run.model_validate_json(document)

    def write(self, lane: str, correlation_id: UUID, run: Run) -> bytes:
        """The document of ``run``, which is remembered unless it has ended."""
        document = run.model_dump_json().encode()
        key = (lane, correlation_id)
        self._forget(key)
        if run.is_open:
            self._runs[key] = (document, run)
            self._bytes += len(document)
            while self._bytes > MOST_BYTES:
                self._forget(next(iter(self._runs)))
        return document

    def _forget(self, key: tuple[str, UUID]) -> None:
        if (found := self._runs.pop(key, None)) is not None:
            self._bytes -= len(found[0])
