"""Each index of the history serves a named query: the plans of a real Postgres say so."""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest

from agents.runtime.queries import load_queries
from agents.sink import queries

pytestmark = pytest.mark.integration

FILL = load_queries(Path(__file__).parents[1] / "support" / "fill_history.sql")


@pytest.fixture(scope="module")
def filled_url(postgres_server: Any, template_database: str) -> Iterator[str]:
    with postgres_server.database(template=template_database) as name:
        url = postgres_server.url_of(name)
        with psycopg.connect(url, autocommit=True) as connection:
            for statement in FILL.values():
                connection.execute(statement)
            connection.execute("VACUUM ANALYZE")
        yield url


FILTERS: dict[str, Any] = {
    "status": None,
    "tenant": None,
    "action": None,
    "parameters": None,
    "before_at": None,
    "before_id": None,
    "limit": 50,
}


@pytest.mark.parametrize(
    ("query", "parameters", "index"),
    [
        ("execution", {"correlation_id": UUID(int=1)}, "executions_pkey"),
        ("executions_by_external_id", {"external_id": "ext-50"}, "executions_external_idx"),
        ("list_executions", FILTERS, "executions_recent_idx"),
        (
            "list_executions",
            {**FILTERS, "before_at": datetime(2026, 1, 1, tzinfo=UTC), "before_id": uuid4()},
            "executions_recent_idx",
        ),
        ("list_executions", {**FILTERS, "status": "failed"}, "executions_status_idx"),
        ("list_executions", {**FILTERS, "tenant": "tenant-7"}, "executions_tenant_idx"),
        ("list_executions", {**FILTERS, "action": "rare.action"}, "steps_action_idx"),
        ("list_executions", {**FILTERS, "parameters": '{"service": 7}'}, "steps_parameters_idx"),
        ("steps_of", {"correlation_id": UUID(int=1)}, "steps_pkey"),
        ("events_of", {"correlation_id": UUID(int=1)}, "events_default_pkey"),
        (
            "dead_letters",
            {"code": None, "role": None, "limit": 50},
            "dead_letters_recent_idx",
        ),
        ("dead_letters", {"code": "bug", "role": None, "limit": 50}, "dead_letters_code_idx"),
        ("dead_letters", {"code": None, "role": "router", "limit": 50}, "dead_letters_role_idx"),
        ("unreadable", {"limit": 50}, "unreadable_recent_idx"),
    ],
)
def test_a_named_query_uses_its_index(
    filled_url: str, query: str, parameters: dict[str, Any], index: str
) -> None:
    with psycopg.connect(filled_url) as connection:
        explained = connection.execute(
            b"EXPLAIN (FORMAT JSON) " + queries._SQL[query],
            {"lane": "test.", **parameters},
            prepare=False,
        ).fetchone()
    assert explained is not None
    assert index in used_indexes(explained[0][0]["Plan"])


def used_indexes(plan: dict[str, Any]) -> set[str]:
    own = {plan["Index Name"]} if "Index Name" in plan else set()
    return own.union(*(used_indexes(each) for each in plan.get("Plans", ())))
