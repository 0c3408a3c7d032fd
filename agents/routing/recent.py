"""Runs that the router has written lately, so that they need not be read from JSON again.

The ledger stays the truth: it hands out the document of a run under a lock, and only if that is
the very one that was written here is the run taken from memory.
"""

from collections import OrderedDict
from typing import Final
from uuid import UUID

from agents.routing.run import Run

MOST_RUNS: Final = 2_000
"""Runs that are kept: about as many as are under way at full speed."""
LONGEST_DOCUMENT: Final = 8 * 1024
"""Bytes of a document above which its run is not kept, so that memory stays bounded."""


class RecentRuns:
    """Remembers runs by the execution and the document that they were written as."""

    def __init__(self) -> None:
        self._runs: OrderedDict[tuple[str, UUID], tuple[bytes, Run]] = OrderedDict()

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
        runs, key = self._runs, (lane, correlation_id)
        if run.is_open and len(document) <= LONGEST_DOCUMENT:
            runs[key] = (document, run)
            runs.move_to_end(key)
            if len(runs) > MOST_RUNS:
                runs.popitem(last=False)
        else:
            runs.pop(key, None)
        return document
