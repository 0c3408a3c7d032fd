"""Servers for tests that kill them, and what the command line says of seeds."""

import os
import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest
from faults.harness import Pipeline, Servers
from support import real_kafka_report


@pytest.fixture(scope="session")
def _fault_servers(
    _kafka_jars: Path | None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Servers | None]:
    if _kafka_jars is None:
        yield None
        return
    with Servers(tmp_path_factory.mktemp("faults"), _kafka_jars) as servers:
        yield servers


@pytest.fixture
def servers(request: pytest.FixtureRequest, _fault_servers: Servers | None) -> Servers:
    """Broker, database and playground that may be killed; they are up again for the next test."""
    if _fault_servers is None:
        real_kafka_report.skip(request)
    return _fault_servers


@pytest.fixture
def pipeline(servers: Servers, tmp_path: Path) -> Iterator[Pipeline]:
    """A pipeline without processes yet, in a lane and a database of its own."""
    with Pipeline(servers, f"f{secrets.token_hex(4)}.", tmp_path) as pipeline:
        yield pipeline


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Give a test that asks for a ``seed`` those of FAULT_SEED, or FAULT_SEEDS many, or two."""
    if "seed" in metafunc.fixturenames:
        given = os.environ.get("FAULT_SEED")
        number = int(os.environ.get("FAULT_SEEDS", "2"))
        seeds = [int(each) for each in given.split(",")] if given else range(1, number + 1)
        metafunc.parametrize("seed", seeds)
