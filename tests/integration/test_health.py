"""What an orchestrator and Prometheus are told of a process."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
from support.delivery import create_topic, produce, running
from support.kafka_servers import KafkaServer
from support.pipeline_processes import PipelineProcess, create_topics, variables
from support.waiting import eventually, wait_until

from agents.executors import SETTINGS_MODELS
from agents.runtime import Context, role
from agents.runtime.catalogue import load_catalogue
from agents.runtime.codec import encode
from agents.runtime.errors import ConfigurationError
from agents.runtime.health import Check, Ping, serving
from agents.runtime.host import Declarations, hosting, kafka_config
from agents.runtime.kafka import Producer
from agents.runtime.metrics import Metrics
from agents.runtime.records import Record
from agents.runtime.settings import load_settings
from agents.runtime.testing import message_with, test_id
from agents.runtime.topology import load_topology
from agents.runtime.watchdog import Pulse
from agents.runtime.worker import Subscription
from ops.local import free_port
from schemas import Intent, Outcome, Plan

pytestmark = pytest.mark.integration

INTENT = Intent(request_id=test_id("request"), title="restart", requester="ann", parser="rules")


@asynccontextmanager
async def answering(metrics: Metrics | None = None) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a health port whose one check hangs."""

    async def live() -> str | None:
        return None

    never = asyncio.Event()

    async def ask() -> None:
        await never.wait()

    ready: dict[str, Check] = {"fine": live, "hanging": Ping(ask, timeout=0.05)}
    async with (
        serving("127.0.0.1", 0, metrics=metrics or Metrics(), live=live, ready=ready) as port,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client,
    ):
        yield client
    never.set()


async def test_a_check_that_fails_is_named() -> None:
    async with answering() as client:
        answer = await client.get("/readyz")
        assert answer.status_code == 503
        assert answer.json() == {
            "status": "unavailable",
            "checks": {"fine": "ok", "hanging": "no answer within 0.05 s"},
        }
        assert (await client.get("/livez")).json() == {"status": "ok", "checks": {"live": "ok"}}


async def test_a_check_that_fails_tells_no_secret() -> None:
    async def live() -> str | None:
        return "cannot reach postgresql://app:hunter22@db/millstream"

    async with (
        serving("127.0.0.1", 0, metrics=Metrics(), live=live, ready={}) as port,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client,
    ):
        answer = (await client.get("/livez")).json()
    assert answer["checks"]["live"] == "cannot reach postgresql://app:[redacted]@db/millstream"


async def test_metrics_are_served_in_the_format_of_prometheus() -> None:
    metrics = Metrics()
    metrics.role("planner").ok = 3
    async with answering(metrics) as client:
        answer = await client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=")
    series = 'millstream_handled_records_total{code="",outcome="ok",role="planner"} 3.0'
    assert series in answer.text


async def test_a_taken_port_is_a_clear_error() -> None:
    async def live() -> str | None:
        return None

    async with serving("127.0.0.1", 0, metrics=Metrics(), live=live, ready={}) as port:
        with pytest.raises(ConfigurationError, match=f"health port 127.0.0.1:{port} cannot be"):
            async with serving("127.0.0.1", port, metrics=Metrics(), live=live, ready={}):
                pass


async def test_a_server_that_hangs_is_asked_once_until_it_answers() -> None:
    asked = 0
    answer = asyncio.Event()

    async def ask() -> None:
        nonlocal asked
        asked += 1
        await answer.wait()

    ping = Ping(ask, timeout=0.01)
    assert await ping() == await ping() == "no answer within 0.01 s"
    assert asked == 1
    answer.set()
    assert await ping() is None
    assert await ping() is None
    assert asked == 2


async def test_a_worker_is_ready_when_it_has_its_partitions_and_no_more_when_it_drains(
    embedded_broker: KafkaServer, database_url: str, lane: str
) -> None:
    create_topics(embedded_broker.bootstrap_servers, lane)
    started, release = asyncio.Event(), asyncio.Event()

    @role("planner")
    async def plan(intent: Intent, ctx: Context) -> Plan | Outcome:
        started.set()
        await release.wait()
        return Outcome(request_id=intent.request_id, status="failed", code="bug", reason="test")

    port = free_port()
    settings = load_settings(
        {
            **variables(embedded_broker.bootstrap_servers, database_url, lane),
            "MILLSTREAM_KAFKA_IDEMPOTENCE": "false",
            "MILLSTREAM_HEALTH_PORT": str(port),
        }
    )
    declarations = Declarations(
        load_topology(settings.topics_file), load_catalogue(settings.actions_file, SETTINGS_MODELS)
    )
    async with (
        hosting(settings, declarations, [plan]) as worker,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client,
    ):

        async def checks() -> dict[str, str]:
            answer = await client.get("/readyz")
            found: dict[str, str] = answer.json()["checks"]
            assert (answer.status_code == 200) == (set(found.values()) == {"ok"})
            return found

        assert (await client.get("/livez")).status_code == 200
        assert await checks() == {
            "kafka": "ok",
            "partitions": "none yet for planner",
            "ledger": "ok",
            "accepting": "ok",
        }
        await worker.start()
        await worker.wait_assigned(30)
        assert set((await checks()).values()) == {"ok"}

        producer = Producer(kafka_config(settings))
        message = message_with(INTENT, lane=lane)
        await producer.send(encode(message, f"{lane}millstream.intents.v1", traceparent=None))
        async with asyncio.timeout(30):
            await started.wait()
        exposed = (await client.get("/metrics")).text.splitlines()
        assert 'millstream_running_handlers{role="planner"} 1.0' in exposed
        assert 'millstream_unfinished_records{role="planner"} 1.0' in exposed
        (oldest,) = (each for each in exposed if each.startswith("millstream_oldest_unfinished_s"))
        assert float(oldest.split()[1]) > 0
        consumed = f'role="planner",topic="{lane}millstream.intents.v1"'
        assert f"millstream_consumed_records_total{{{consumed}}} 1.0" in exposed

        worker.request_stop()
        stopping = asyncio.create_task(worker.run())
        assert (await checks())["accepting"] == "the worker is stopping"
        release.set()
        await stopping
        await eventually(lambda: not producer.pending, "all is delivered")
        await producer.close()


def test_a_sink_is_ready_when_it_has_claimed_its_partitions_and_counts_what_it_writes(
    embedded_broker: KafkaServer, database_url: str, lane: str, tmp_path: Path
) -> None:
    address = embedded_broker.bootstrap_servers
    create_topics(address, lane)
    settings = variables(address, database_url, lane)
    with PipelineProcess("sink", settings=settings, log=tmp_path / "log") as sink:
        wait_until(sink.is_ready, "the sink is ready")
        assert sink.checks() == dict.fromkeys(
            ("kafka", "postgres", "partitions", "accepting"), "ok"
        )
        asyncio.run(send_intent(address, lane))

        def written() -> bool:
            answer = sink.ask("/metrics")
            assert answer is not None
            return 'millstream_sink_rows_total{table="events"} 1.0' in answer.text

        wait_until(written, "the message is written")
        assert sink.stop() == 0


async def send_intent(address: str, lane: str) -> None:
    producer = Producer(kafka_config(load_settings(variables(address, "postgresql://", lane))))
    message = message_with(INTENT, lane=lane)
    await producer.send(encode(message, f"{lane}millstream.intents.v1", traceparent=None))
    await producer.close()


async def test_the_watchdog_sees_whether_a_role_has_work_and_whether_attempts_end(
    embedded_broker: KafkaServer, lane: str
) -> None:
    address = embedded_broker.bootstrap_servers
    topic = create_topic(address, f"{lane}orders.v1")
    release = asyncio.Event()

    async def handle(_record: Record) -> None:
        await release.wait()

    async with running(address, Subscription("role", f"{lane}role", (topic,), handle)) as worker:

        def pulse() -> Pulse:
            (only,) = worker.pulses()
            return only

        assert not pulse().has_work
        turns = pulse().turns or 0
        await eventually(lambda: (pulse().turns or 0) > turns, "the poll thread comes round")
        await produce(address, topic, [(b"one", b""), (b"two", b"")])
        await eventually(lambda: pulse().has_work, "there is work")
        assert pulse().attempts == 0
        release.set()
        await eventually(lambda: not pulse().has_work, "the work is done")
        assert pulse().attempts == 2
        assert not pulse().poll_thread_is_dead
        worker.request_stop()
        assert worker.pulses() == []
