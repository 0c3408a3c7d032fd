"""``millstream dlq redrive``: send the records of dead letters again, one after the other.

Who did it is written down before a record is sent, and that it was sent after the broker has
confirmed it. After a crash in between the dead letter counts as not redriven: sending its record
again is harmless, since it is the same message.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Final

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from agents.runtime.clock import SystemClock
from agents.runtime.errors import ConfigurationError, KafkaUnavailableError, PermanentError
from agents.runtime.host import kafka_config
from agents.runtime.kafka import Producer
from agents.runtime.kafka_admin import KafkaAdmin, wait_until_reachable
from agents.runtime.ports import Clock
from agents.runtime.records import Outgoing
from agents.runtime.settings import Settings
from ops.dead_letter_rows import Letter
from ops.dead_letter_text import printable
from ops.dead_letters import DeadLetters
from ops.redrive import Redrive, Redriver

_REACHABLE_SECONDS: Final = 3.0
Send = Callable[[Outgoing], Awaitable[None]]


@dataclass(frozen=True)
class Refusal:
    """A dead letter that is not sent, and why."""

    letter: Letter
    reason: str


Answer = Redrive | Refusal


@dataclass(frozen=True)
class Requester:
    """Who redrives, and why."""

    name: str
    reason: str | None = None


def prepare(
    dead_letters: DeadLetters, letters: Iterable[Letter], redriver: Redriver
) -> Iterator[Answer]:
    """What becomes of each of the dead letters."""
    for letter in letters:
        try:
            yield redriver.prepare(letter, dead_letters.contents(letter))
        except PermanentError as error:
            yield Refusal(letter, error.reason)


def without_value(answer: Answer) -> Answer:
    """The answer without the record's value, since there may be many and large ones."""
    if isinstance(answer, Refusal):
        return answer
    return replace(answer, outgoing=answer.outgoing._replace(value=None))


async def send_all(
    dead_letters: DeadLetters,
    answers: Iterable[Answer],
    send: Send,
    *,
    requester: Requester,
    rate: float,
    clock: Clock,
    tell: Callable[[Answer], None] = lambda _answer: None,
) -> list[Answer]:
    """Send what can be sent, at most ``rate`` records a second; returns what became of each.

    Raises:
        InfrastructureError: Kafka or Postgres does not answer; what was sent until then is
            written down.
    """
    done: list[Answer] = []
    begun = clock.now()
    sent = 0
    for answer in answers:
        if isinstance(answer, Redrive):
            early = sent / rate - (clock.now() - begun).total_seconds()
            if early > 0:
                await clock.sleep(early)
            sent += 1
            done.append(await _send(dead_letters, answer, send, requester))
        else:
            done.append(answer)
        tell(done[-1])
    return done


async def _send(
    dead_letters: DeadLetters, redrive: Redrive, send: Send, requester: Requester
) -> Answer:
    number = dead_letters.begin_redrive(
        redrive.letter,
        topic=redrive.outgoing.topic,
        message_id=redrive.message.message_id,
        correlation_id=redrive.message.correlation_id,
        edited=redrive.edited,
        requested_by=requester.name,
        reason=requester.reason,
    )
    try:
        await send(redrive.outgoing)
    except PermanentError as error:  # too large for its topic, say
        return Refusal(redrive.letter, error.reason)
    dead_letters.end_redrive(redrive.letter, number)
    return without_value(redrive)


def redrive_all(
    settings: Settings,
    dead_letters: DeadLetters,
    letters: Sequence[Letter],
    redriver: Redriver,
    *,
    requester: Requester,
    rate: float,
    console: Console,
) -> list[Answer]:
    """Send the records of dead letters and tell of it: a line for each, or a bar on a terminal.

    Raises:
        RedriveUnderWayError: Somebody else redrives dead letters of this lane.
        InfrastructureError: Kafka or Postgres does not answer.
    """
    dead_letters.reserve()

    async def run() -> list[Answer]:
        producer = Producer(kafka_config(settings))
        try:
            with telling(console, len(letters)) as tell:
                return await send_all(
                    dead_letters,
                    prepare(dead_letters, letters, redriver),
                    producer.send,
                    requester=requester,
                    rate=rate,
                    clock=SystemClock(),
                    tell=tell,
                )
        finally:
            await producer.close()

    return asyncio.run(run())


def check_broker(settings: Settings, topics: Iterable[str]) -> None:
    """Make sure that there is a broker that has the topics.

    Raises:
        KafkaUnavailableError: No broker answers; says what to do.
        ConfigurationError: It lacks one of them.
    """
    config = kafka_config(settings)
    address = config.bootstrap_servers
    try:
        wait_until_reachable(address, _REACHABLE_SECONDS, config=config.security)
    except KafkaUnavailableError:
        raise KafkaUnavailableError(
            f"Kafka at {address} does not answer; is the stack up? Start it with `millstream up`."
        ) from None
    present = KafkaAdmin(address, config=config.security).list_topics()
    if missing := sorted(set(topics) - present.keys()):
        raise ConfigurationError(
            f"Kafka at {address} lacks {', '.join(missing)}; create with `millstream topics apply`"
        )


def describe(answer: Answer, verb: str) -> Text:
    """What becomes of one dead letter, on a line."""
    identifier = (answer.letter.short_id, "cyan")
    if isinstance(answer, Refusal):
        return Text.assemble(identifier, ("  refused  ", "red"), printable(answer.reason))
    message = answer.message
    about = ", edited" if answer.edited else ""
    return Text.assemble(
        identifier,
        (f"  {verb}  ", "green"),
        f"{answer.outgoing.topic}{about}",
        (f"  execution {message.correlation_id}  message {message.message_id}", "dim"),
    )


def answer_json(answer: Answer, *, sent: bool) -> dict[str, Any]:
    """What becomes of one dead letter, for a program."""
    about: dict[str, Any] = {"id": answer.letter.id, "role": answer.letter.role}
    if isinstance(answer, Refusal):
        return {**about, "sent": False, "refused": answer.reason}
    key = answer.outgoing.key
    return {
        **about,
        "sent": sent,
        "refused": None,
        "topic": answer.outgoing.topic,
        "key": None if key is None else key.decode("utf-8", errors="replace"),
        "headers": [
            [name, None if value is None else value.decode("utf-8", errors="replace")]
            for name, value in answer.outgoing.headers
        ],
        "message_id": answer.message.message_id,
        "correlation_id": answer.message.correlation_id,
        "edited": answer.edited,
    }


@contextmanager
def telling(console: Console, total: int) -> Iterator[Callable[[Answer], None]]:
    """Tells of each answer: a bar and what is refused on a terminal, a line each elsewhere."""
    if not console.is_terminal:
        yield lambda answer: console.print(describe(answer, "sent to"), soft_wrap=True)
        return
    columns = (
        TextColumn("redriving"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("redriving", total=total)

        def advance(answer: Answer) -> None:
            if isinstance(answer, Refusal):
                console.print(describe(answer, ""), soft_wrap=True)
            progress.advance(task)

        yield advance
