"""Topics that are made anew are noticed; a broker that is away is waited for."""

from typing import Any, cast

import pytest

from agents.runtime.broker_check import BrokerCheck, TopicsReplacedError
from agents.runtime.errors import KafkaUnavailableError
from agents.runtime.kafka_admin import KafkaAdmin, TopicState

KNOWN = {"plans": "1", "verdicts": "2"}


class Broker:
    """Answers what the test says, and the last of it for ever."""

    def __init__(self, *answers: dict[str, str | None] | Exception) -> None:
        self.answers = list(answers)
        self.asked = 0

    def list_topics(self) -> dict[str, Any]:
        self.asked += 1
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return {name: TopicState(name, 3, 1, topic_id=each) for name, each in answer.items()}


def check(*answers: dict[str, str | None] | Exception) -> tuple[Broker, BrokerCheck]:
    broker = Broker(*answers)
    return broker, BrokerCheck(cast("KafkaAdmin", broker), KNOWN)


async def test_a_process_ends_when_a_topic_is_another_one_and_not_before() -> None:
    broker, checked = check(
        {"plans": "1", "verdicts": "2"},
        KafkaUnavailableError("no answer"),
        {},  # a broker that has forgotten everything
        {"plans": "1", "verdicts": "3"},
    )
    with pytest.raises(TopicsReplacedError, match="verdicts were made anew") as raised:
        await checked.run(0.001)
    assert broker.asked == 4
    assert raised.value.code == "broker_reset"


def test_a_broker_without_topic_ids_is_always_the_same() -> None:
    _, checked = check({"plans": None, "verdicts": None})
    assert BrokerCheck(checked._admin, {"plans": "plans"}).replaced() == []
