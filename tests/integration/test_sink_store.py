"""Batches that Postgres writes while the sink goes on."""

from collections.abc import Iterator

import psycopg
import pytest
from psycopg import sql
from support.sample_history import history_of
from support.sink_log import SPECS, positions
from support.waiting import wait_until

from agents.runtime import dead_letters
from agents.runtime.errors import InvalidMessageError
from agents.runtime.metrics import Metrics
from agents.runtime.records import Record
from agents.sink.assembly import decoder
from agents.sink.batch import Batch, Sorter
from agents.sink.store import FencedError, Store, UnstorableError
from agents.sink.writer import Writer
from schemas.registry import PAYLOADS

pytestmark = pytest.mark.integration

LANE = "test."
PLANS = f"{LANE}millstream.plans.v1"
PLACE = (PLANS, 0)
TOPIC_IDS: dict[str, str | None] = {PLANS: "id"}


@pytest.fixture
def store(database_url: str) -> Iterator[Store]:
    with Store(database_url, lane=LANE) as store:
        yield store


@pytest.fixture
def sorter() -> Sorter:
    schemas = {
        spec.name_in(LANE): PAYLOADS[spec.schema] for spec in SPECS if spec.schema in PAYLOADS
    }
    return Sorter(
        lane=LANE,
        decode=decoder(schemas, lane=LANE),
        dead_letter_topic=LANE + dead_letters.TOPIC,
    )


def plan(offset: int, **changes: object) -> Record:
    message = history_of(f"e{offset}", lane=LANE)[2].model_copy(update=changes)
    return Record(PLANS, 0, offset, 0, message.key(), message.to_bytes())


def unstorable(offset: int) -> Record:
    """Valid for the schema, too large for the column."""
    return plan(offset, attempt=10**12)


def rows(database_url: str, table: str) -> int:
    with psycopg.connect(database_url) as connection:
        query = sql.SQL("SELECT count(*) FROM {}").format(sql.Identifier("history", table))
        found = connection.execute(query).fetchone()
    return int(found[0]) if found else 0


def test_a_batch_that_was_sent_is_written_although_nobody_waits_for_it(
    database_url: str, store: Store, sorter: Sorter
) -> None:
    claims = store.claim([PLACE], TOPIC_IDS)
    store.send(sorter.sort([plan(0), plan(1)], TOPIC_IDS), claims)
    wait_until(lambda: positions(database_url, LANE) == {PLACE: 2}, "the batch is written")
    assert rows(database_url, "executions") == 2
    store.finish()


def test_a_batch_under_an_old_claim_is_refused_and_the_store_is_of_use_again(
    database_url: str, store: Store, sorter: Sorter
) -> None:
    claims = store.claim([PLACE], TOPIC_IDS)
    with Store(database_url, lane=LANE) as other:
        newer = other.claim([PLACE], TOPIC_IDS)
    with pytest.raises(FencedError, match="another sink"):
        store.write(sorter.sort([plan(0)], TOPIC_IDS), claims)
    assert rows(database_url, "events") == 0
    store.write(sorter.sort([plan(0)], TOPIC_IDS), newer)
    assert rows(database_url, "events") == 1


def test_what_postgres_refuses_while_it_merges_is_told_apart_from_what_follows_it(
    database_url: str, store: Store, sorter: Sorter
) -> None:
    claims = store.claim([PLACE], TOPIC_IDS)
    bad = sorter.sort([plan(0)], TOPIC_IDS)
    bad.unreadable = [
        sorter.unreadable(plan(number), "id", error)._replace(offset=2**70)
        for number, error in enumerate([InvalidMessageError("odd")] * 50)
    ]
    with pytest.raises(UnstorableError, match="out of range"):
        store.write(bad, claims)
    assert positions(database_url, LANE) == {}
    store.write(Batch(positions={PLACE: 1}), claims)
    assert positions(database_url, LANE) == {PLACE: 1}


def test_a_batch_is_written_before_the_next_one_follows(
    database_url: str, store: Store, sorter: Sorter
) -> None:
    metrics = Metrics()
    writer = Writer(store, sorter, metrics)
    claims = store.claim([PLACE], TOPIC_IDS)
    assert writer.send([plan(0)], TOPIC_IDS, claims) == {}
    assert writer.send([plan(1), plan(2)], TOPIC_IDS, claims) == {PLACE: 1}
    assert writer.finish() == {PLACE: 3}
    assert writer.finish() == {}
    assert metrics.sink_rows["events"] == rows(database_url, "events") == 3


def test_one_message_that_postgres_refuses_holds_up_none_of_its_batch(
    database_url: str, store: Store, sorter: Sorter
) -> None:
    metrics = Metrics()
    writer = Writer(store, sorter, metrics)
    claims = store.claim([PLACE], TOPIC_IDS)
    writer.send([plan(0)], TOPIC_IDS, claims)
    records = [plan(1), unstorable(2), plan(3), unstorable(4), plan(5)]
    assert writer.send(records, TOPIC_IDS, claims) == {PLACE: 6}
    assert positions(database_url, LANE) == {PLACE: 6}
    assert (rows(database_url, "events"), rows(database_url, "unreadable")) == (4, 2)
    assert (metrics.sink_rows["events"], metrics.sink_rows["unreadable"]) == (4, 2)
