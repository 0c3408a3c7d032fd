"""Assembles a process: roles on a worker, with the services that they share.

Start-up checks what would otherwise fail later and less clearly: that every role's signature
agrees with topics.yaml, that no role is there twice, and that the broker has the topics.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import structlog

from agents.runtime import redaction
from agents.runtime.assessment import NoPolicies, Policies
from agents.runtime.breaker import Breakers
from agents.runtime.broker_check import BrokerCheck
from agents.runtime.catalogue import Catalogue
from agents.runtime.clock import SystemClock
from agents.runtime.context import Services
from agents.runtime.database import Database
from agents.runtime.dead_letters import DeadLetterWriter
from agents.runtime.deadlines import Deadlines
from agents.runtime.delays import LADDER
from agents.runtime.delivery import Delivery, RecordDelivery
from agents.runtime.errors import ConfigurationError, PermanentError
from agents.runtime.kafka import KafkaConfig, Producer
from agents.runtime.kafka_admin import KafkaAdmin
from agents.runtime.kafka_watch import KafkaWatch
from agents.runtime.ledger.postgres import PostgresLedger
from agents.runtime.metrics import Metrics
from agents.runtime.outage import START, Outage, Outages, patiently
from agents.runtime.overseer import overseeing
from agents.runtime.ports import OutboxRow
from agents.runtime.principals import Identifies, Principals
from agents.runtime.records import Record
from agents.runtime.resilience import JITTER, LONGEST_WAIT, Backoff
from agents.runtime.roles import RoleSpec, spec_of
from agents.runtime.running import RunningSteps
from agents.runtime.secrets import open_secrets
from agents.runtime.settings import Settings
from agents.runtime.topology import Topology
from agents.runtime.watchdog import LEAST_SECONDS
from agents.runtime.worker import Subscription, Worker
from schemas.envelope import HEADER_MESSAGE_ID

_GROUP = "millstream-"
_BROKER_TOPIC = "millstream.verdicts.v1"
_AT_ONCE = 256
"""Messages that a role handles at the same time."""
_WAITING = 4096
"""Records that the delayer holds at the same time: more than there are places in `_place`."""
_SIDE_BY_SIDE = 64


_log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Declarations:
    """What the files of a deployment say."""

    topology: Topology
    catalogue: Catalogue
    policies: Policies = field(default_factory=NoPolicies)
    principals: Identifies = field(default_factory=Principals)


def kafka_config(settings: Settings) -> KafkaConfig:
    """How to reach the cluster that the settings name."""
    security: dict[str, str] = {"security.protocol": settings.kafka_security_protocol}
    if settings.kafka_sasl_mechanism is not None:
        security["sasl.mechanism"] = settings.kafka_sasl_mechanism
    if settings.kafka_sasl_username is not None:
        security["sasl.username"] = settings.kafka_sasl_username
    if settings.kafka_sasl_password is not None:
        security["sasl.password"] = settings.kafka_sasl_password.get_secret_value()
    if settings.kafka_ssl_ca_location is not None:
        security["ssl.ca.location"] = str(settings.kafka_ssl_ca_location)
    return KafkaConfig(
        bootstrap_servers=settings.kafka_bootstrap,
        security=security,
        session_timeout=settings.kafka_session_timeout,
        fetch_wait_ms=settings.kafka_fetch_wait_ms,
        idempotence=settings.kafka_idempotence,
        group_instance_id=settings.group_instance_id,
    )


def check_roles(functions: Iterable[Callable[..., Any]], topology: Topology) -> list[RoleSpec]:
    """The declarations of ``functions``, agreed with topics.yaml.

    Raises:
        ConfigurationError: A role is there twice, or its signature and the file disagree; all
            disagreements are named.
    """
    specs: dict[str, RoleSpec] = {}
    problems: list[str] = []
    for function in functions:
        spec = spec_of(function)
        if (other := specs.get(spec.name)) is not None:
            problems.append(f"{spec.where}: role {spec.name!r} is also at {other.where}")
            continue
        specs[spec.name] = spec
        try:
            topology.check_role(
                spec.name,
                spec.consumed_schemas,
                {payload.__name__ for payload in spec.publishes},
                spec.where,
                keeps_order=spec.keeps_order,
            )
        except ConfigurationError as error:
            problems.append(error.reason)
    if problems:
        raise ConfigurationError("\n".join(problems))
    return list(specs.values())


@asynccontextmanager
async def hosting(
    settings: Settings, declarations: Declarations, functions: Sequence[Callable[..., Any]]
) -> AsyncIterator[Worker]:
    """A worker that hosts the given roles, ready to start; its services end with the block.

    Kafka or Postgres being away is waited for, and said once; the health port says it, too.

    Raises:
        ConfigurationError: Roles and topics.yaml disagree, the broker lacks topics, or Kafka or
            Postgres refuses us.
    """
    specs = check_roles(functions, declarations.topology)
    redaction.learn(settings)
    kafka = kafka_config(settings)
    async with AsyncExitStack() as stack:
        metrics, clock = Metrics(), SystemClock()
        for spec in specs:
            metrics.role(spec.name)
        outages = Outages(clock, metrics)
        watch = stack.enter_context(KafkaWatch(kafka, outages))
        overseer = await stack.enter_async_context(overseeing(settings, metrics, outages))

        starting = Outage(START, outages)
        await watch.wait_until_answered()
        ask = partial(asyncio.to_thread, _topic_ids, settings, kafka, declarations.topology, specs)
        topic_ids = await patiently(ask, clock=clock, outage=starting)
        database = Database(
            settings.database_url.get_secret_value(),
            pool_size=settings.database_pool_size,
            statement_timeout=settings.database_timeout,
        )
        stack.push_async_callback(database.close)
        ledger = PostgresLedger(database, clock, metrics)
        await patiently(ledger.start, clock=clock, outage=starting)
        stack.push_async_callback(ledger.close)
        breakers = Breakers(clock)
        metrics.breakers = breakers.states
        producer = Producer(kafka)
        stack.push_async_callback(producer.close)
        running = RunningSteps(ledger.stopping, settings.cancel_poll)
        stack.push_async_callback(running.close)
        services = Services(
            settings=settings,
            catalogue=declarations.catalogue,
            topology=declarations.topology,
            ledger=ledger,
            clock=clock,
            breakers=breakers,
            metrics=metrics,
            principals=declarations.principals,
            secrets=open_secrets(settings),
            broker_id=topic_ids[settings.lane + _BROKER_TOPIC],
            policies=declarations.policies,
            running=running,
        )
        writers = partial(
            DeadLetterWriter,
            lane=settings.lane,
            topic_ids=topic_ids,
            publisher=producer,
            limit=settings.dead_letter_limit,
        )
        deliveries = [
            await _delivery(
                spec,
                services,
                declarations.topology,
                producer,
                writers(role=spec.name),
                Outage(spec.name, outages, metrics.role(spec.name)),
                stack,
            )
            for spec in specs
        ]
        worker = Worker(
            kafka,
            [_subscription(each, declarations.topology, kafka) for each in deliveries],
            drain_timeout=settings.drain_timeout,
        )
        overseer.oversees(worker, database)
        tickers = [
            asyncio.create_task(_tick(delivery, worker), name=f"ticker-{delivery.spec.name}")
            for delivery in deliveries
            if isinstance(delivery, Delivery) and delivery.spec.ticker is not None
        ]
        checking = BrokerCheck(
            KafkaAdmin(kafka.bootstrap_servers, config=kafka.security), topic_ids
        )
        tickers.append(
            asyncio.create_task(
                _check(checking, worker, settings.broker_check), name="broker-check"
            )
        )
        following = asyncio.create_task(_follow(services, worker), name="policies")
        stack.push_async_callback(_cancel, [*tickers, following])
        yield worker


def _topic_ids(
    settings: Settings, kafka: KafkaConfig, topology: Topology, specs: Sequence[RoleSpec]
) -> dict[str, str]:
    """The broker's ids of all topics that the roles use, by full name."""
    admin = KafkaAdmin(kafka.bootstrap_servers, config=kafka.security)
    present = admin.list_topics()
    used = {
        topic.name_in(settings.lane)
        for spec in specs
        for topic in (*topology.consumed_by(spec.name), *topology.produced_by(spec.name))
    } | {settings.lane + _BROKER_TOPIC}
    missing = sorted(used - present.keys())
    if missing:
        lane = f" --lane {settings.lane}" if settings.lane else ""
        raise ConfigurationError(
            f"the broker at {settings.kafka_bootstrap} lacks {', '.join(missing)}; "
            f"create them with `millstream topics apply{lane}`"
        )
    return {name: present[name].topic_id or name for name in used}


async def _delivery(
    spec: RoleSpec,
    services: Services,
    topology: Topology,
    producer: Producer,
    dead_letters: DeadLetterWriter,
    outage: Outage,
    stack: AsyncExitStack,
) -> Delivery | RecordDelivery:
    metrics = services.metrics.role(spec.name)
    if spec.records is not None:
        return RecordDelivery(spec, spec.records, services, producer, dead_letters, outage, metrics)
    handler = spec.handler
    if spec.lifespan is not None:
        handler = await stack.enter_async_context(spec.lifespan(services))
    return Delivery(
        spec=spec,
        handler=handler,
        services=services,
        topology=topology,
        publisher=producer,
        backoff=Backoff(),
        dead_letters=dead_letters,
        outage=outage,
        metrics=metrics,
        deadlines=Deadlines(services.settings.handler_timeout),
    )


def _patience(spec: RoleSpec, services: Services, kafka: KafkaConfig) -> float:
    """Seconds within which some attempt of the role ends, unless it hangs.

    An attempt that fails ends, too; so between two ends there is at most one of the longest
    pauses between retries, one of the longest attempts, and one wait for the broker.
    """
    settings = services.settings
    if settings.watchdog_seconds is not None:
        return settings.watchdog_seconds
    if spec.records is not None:
        attempt = max(delay.total_seconds() for _, delay in LADDER)
    elif spec.executor is not None:
        actions = services.catalogue.actions.values()
        timeouts = [each.timeout for each in actions if each.executor == spec.executor]
        # It may wait for another process' lease to end before it begins.
        attempt = 2 * max(timeouts, default=0.0) + settings.effect_lease_margin
    else:
        attempt = settings.handler_timeout
    longest = LONGEST_WAIT * (1 + JITTER) + attempt + kafka.delivery_timeout
    return max(longest, LEAST_SECONDS)


def _subscription(
    delivery: Delivery | RecordDelivery, topology: Topology, kafka: KafkaConfig
) -> Subscription:
    spec, settings = delivery.spec, delivery.services.settings
    topics = topology.consumed_by(spec.name)
    key_of: Callable[[Record], bytes | None]
    if spec.records is not None:
        key_of, concurrency = _place, _WAITING
    else:
        key_of, concurrency = _execution if spec.ordered else _message, _AT_ONCE
    return Subscription(
        role=spec.name,
        group=f"{settings.lane}{_GROUP}{spec.name}",
        topics=tuple(topic.name_in(settings.lane) for topic in topics),
        handler=delivery,
        key_of=key_of,
        window=settings.window,
        concurrency=concurrency,
        metrics=delivery.metrics,
        patience=_patience(spec, delivery.services, kafka),
        # Broken off, an effect would be in doubt. The ledger keeps its claim and its outcome, with
        # which the new owner of the partition answers.
        finishes=spec.executor is not None,
    )


def _place(record: Record) -> bytes:
    """Records that only wait are taken in the order of their partition, a few side by side.

    They come in the order in which they are due, so one that is not due holds up none that is.
    """
    return b"%d/%d/%s" % (record.offset % _SIDE_BY_SIDE, record.partition, record.topic.encode())


def _execution(record: Record) -> bytes | None:
    return record.key


def _message(record: Record) -> bytes | None:
    """Steps of one execution do not wait for each other."""
    return record.header(HEADER_MESSAGE_ID)


async def _tick(delivery: Delivery, worker: Worker) -> None:
    services, ticker = delivery.services, delivery.spec.ticker
    if ticker is None:
        raise ValueError(f"role {delivery.spec.name} has no ticker")
    number = 0

    async def turn() -> None:
        await _publish_each(delivery, await ticker(services, number))

    while True:
        try:
            await patiently(turn, clock=services.clock, outage=delivery.outage)
            number += 1
        except Exception as error:  # noqa: BLE001  # a broken ticker ends the worker
            worker.crash(error)
            return
        await services.clock.sleep(services.settings.router_tick)


async def _check(checking: BrokerCheck, worker: Worker, period: float) -> None:
    try:
        await checking.run(period)
    except Exception as error:  # noqa: BLE001  # whatever ends the check ends the worker
        worker.crash(error)


async def _follow(services: Services, worker: Worker) -> None:
    try:
        await services.policies.follow(services.clock)
    except Exception as error:  # noqa: BLE001  # policies that nobody follows end the worker
        worker.crash(error)


async def _publish_each(delivery: Delivery, rows: Sequence[OutboxRow[Any]]) -> None:
    """Publish what a ticker found; a message that can never be sent holds up no other."""
    try:
        await delivery.publish(rows, None, None)
    except PermanentError:
        for row in rows:
            try:
                await delivery.publish(row, None, None)
            except PermanentError as error:
                _log.error(  # the reason says it all, and it comes at each tick
                    "unpublishable",
                    row=row.row_id,
                    correlation_id=str(row.message.correlation_id),
                    reason=error.reason,
                )


async def _cancel(tasks: Sequence[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    for task in tasks:
        with contextlib.suppress(asyncio.CancelledError):
            await task
