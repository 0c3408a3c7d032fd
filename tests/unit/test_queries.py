"""Named queries from .sql files."""

from dataclasses import dataclass
from pathlib import Path

import pytest

from agents.runtime.errors import ConfigurationError
from agents.runtime.queries import bind_queries, load_queries
from agents.runtime.settings import ROOT


@dataclass(frozen=True)
class Two:
    find_run: bytes
    lock_run: bytes


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return tmp_path / "some.sql"


def test_queries_are_found_by_name_without_their_comments(source: Path) -> None:
    source.write_text(
        "-- The file's own comment.\n\n"
        "-- name: find_run\n-- Why.\nSELECT 1\n-- inside\nFROM runs;\n\n"
        "--name: lock_run\nSELECT 2\n"
    )
    assert load_queries(source) == {
        "find_run": b"SELECT 1\nFROM runs",
        "lock_run": b"SELECT 2",
    }


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("-- name: one\nSELECT 1;\n-- name: one\nSELECT 2;", ":3: query 'one' is there already"),
        ("-- name: one\n\n-- name: two\nSELECT 2;", ":1: query 'one' is empty"),
        ("-- name: one\n-- only words\n", ":1: query 'one' is empty"),
        ("SELECT 1;\n-- name: one\nSELECT 2;", ":1: SQL stands before the first name"),
        ("-- name: One Two\nSELECT 1;", ":1: 'One Two' cannot name a query"),
    ],
)
def test_a_malformed_file_is_refused_with_file_and_line(
    source: Path, text: str, complaint: str
) -> None:
    source.write_text(text)
    with pytest.raises(ConfigurationError) as caught:
        load_queries(source)
    assert str(caught.value) == f"{source}{complaint}"


def test_declared_queries_become_fields(source: Path) -> None:
    source.write_text("-- name: lock_run\nSELECT 2;\n-- name: find_run\nSELECT 1;\n")
    assert bind_queries(source, Two) == Two(find_run=b"SELECT 1", lock_run=b"SELECT 2")


def test_missing_and_unused_queries_are_named_together(source: Path) -> None:
    source.write_text("-- name: find_run\nSELECT 1;\n-- name: drop_run\nSELECT 3;\n")
    with pytest.raises(ConfigurationError) as caught:
        bind_queries(source, Two)
    assert "lock_run is missing; drop_run is used by nobody" in str(caught.value)
    assert str(source) in str(caught.value)


@pytest.mark.parametrize(
    "source", sorted((ROOT / "agents").rglob("*.sql")), ids=lambda path: path.stem
)
def test_every_sql_file_of_the_runtime_is_well_formed(source: Path) -> None:
    assert load_queries(source)
