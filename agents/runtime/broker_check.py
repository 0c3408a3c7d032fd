"""Looks whether the topics are still the ones that a process has started with.

An embedded broker forgets its topics when it stops, and anybody may delete a topic and make it
anew. A process that goes on as before would begin runs under the id of a broker that is gone, and
name that one in its dead letters. So it ends, and says why: its successor reads the new topics
from their beginning, and ends what the old ones have left open.
"""

import asyncio
from collections.abc import Mapping
from typing import ClassVar

from agents.runtime.errors import ErrorCode, FatalInfrastructureError, InfrastructureError
from agents.runtime.kafka_admin import KafkaAdmin


class TopicsReplacedError(FatalInfrastructureError):
    """Topics were made anew under a running process."""

    default_code: ClassVar[ErrorCode] = "broker_reset"


class BrokerCheck:
    """Compares the broker's topic ids with those that a process knows.

    Args:
        admin: Asks the broker.
        topic_ids: What the process knows, by the topics' full names.
    """

    def __init__(self, admin: KafkaAdmin, topic_ids: Mapping[str, str]) -> None:
        self._admin = admin
        self._topic_ids = topic_ids

    async def run(self, period: float) -> None:
        """Look every ``period`` seconds; a broker that is away, or lacks topics, is waited for.

        Raises:
            TopicsReplacedError: Topics are not the ones that they were.
        """
        while True:
            await asyncio.sleep(period)
            try:
                replaced = await asyncio.to_thread(self.replaced)
            except InfrastructureError:
                continue  # others say so, and wait
            if replaced:
                raise TopicsReplacedError(
                    f"{', '.join(replaced)} were made anew since this process has started; it ends,"
                    " so that its successor starts with the new ones"
                )

    def replaced(self) -> list[str]:
        """The topics that have another id now.

        Raises:
            InfrastructureError: The broker does not answer.
        """
        present = self._admin.list_topics()
        return sorted(
            name
            for name, known in self._topic_ids.items()
            if name in present and (present[name].topic_id or name) != known
        )
