"""Delayer: holds records whose handling failed for a while, then puts them back on their topic.

Consumes the delay topics, as bytes; produces to the topic that a record came from. A record is
acked when its topic has it back, so a crash delays it again at worst by what was left.
"""

from agents.runtime import Services, record_role
from agents.runtime.delays import due_at, require_origin, restored
from agents.runtime.records import Outgoing, Record


@record_role("delayer")
async def forward(record: Record, services: Services) -> Outgoing:
    """Wait until ``record`` is due, and return it for its own topic.

    Raises:
        InvalidMessageError: It cannot have come from where it says.
    """
    lane = services.settings.lane
    outgoing = restored(record, lane=lane)
    require_origin(outgoing.topic, services.topology, lane=lane)
    left = (due_at(record, lane=lane) - services.clock.now()).total_seconds()
    if left > 0:
        await services.clock.sleep(left)
    return outgoing
