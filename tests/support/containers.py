"""Servers in containers, where a Docker daemon answers."""

import functools
import importlib
import os
import socket
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from agents.runtime.kafka_admin import wait_until_reachable
from ops.local import free_port

_KAFKA_IMAGE: Final = "apache/kafka:4.3.0"
_KAFKA_START_SECONDS: Final = 90.0
_POSTGRES_IMAGE: Final = "postgres:18-alpine"
_DAEMON_SECONDS: Final = 3
_DEFAULT_HOST: Final = "unix:///var/run/docker.sock"


@functools.cache
def docker_answers() -> bool:
    """Return whether testcontainers is installed and a Docker daemon answers."""
    if not _something_listens(os.environ.get("DOCKER_HOST") or _DEFAULT_HOST):
        return False
    try:
        docker = _quietly("docker")
        _quietly("testcontainers.core.container")
    except ModuleNotFoundError:
        return False
    try:
        client = docker.from_env(timeout=_DAEMON_SECONDS)
    except docker.errors.DockerException:
        return False
    try:
        return bool(client.ping())
    except docker.errors.DockerException:
        return False
    finally:
        client.close()


@contextmanager
def kafka_container(settings: Mapping[str, str]) -> Iterator[str]:
    """Run Apache Kafka in a container and give its bootstrap address.

    Args:
        settings: Broker settings as in server.properties.
    """
    container_module = _quietly("testcontainers.core.container")
    container = container_module.DockerContainer(_KAFKA_IMAGE)
    # Kafka tells its clients where it is, so the port outside must be known before it starts.
    port = free_port()
    address = f"{container.get_docker_client().host()}:{port}"
    everything = {
        **settings,
        "node.id": "1",
        "process.roles": "broker,controller",
        "controller.quorum.voters": "1@localhost:9094",
        "controller.listener.names": "CONTROLLER",
        "listeners": "PLAINTEXT://:9092,CONTROLLER://:9094",
        "advertised.listeners": f"PLAINTEXT://{address}",
        "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
        "inter.broker.listener.name": "PLAINTEXT",
    }
    for name, value in everything.items():
        container.with_env(f"KAFKA_{name.replace('.', '_').upper()}", value)
    container.with_bind_ports(9092, port)
    with container:
        wait_until_reachable(address, _KAFKA_START_SECONDS)
        yield address


@contextmanager
def postgres_container(settings: Mapping[str, str]) -> Iterator[str]:
    """Run PostgreSQL in a container and give the address of a superuser's database."""
    postgres = _quietly("testcontainers.postgres")
    options = " ".join(f"-c {name}={value}" for name, value in settings.items())
    container = postgres.PostgresContainer(_POSTGRES_IMAGE, driver=None)
    with container.with_command(f"postgres {options}") as server:
        yield server.get_connection_url()


def broker_settings(template: Path) -> dict[str, str]:
    """Return the settings of a server.properties that do not depend on where it runs."""
    pairs = (
        line.split("=", 1)
        for line in template.read_text().splitlines()
        if "=" in line and not line.startswith("#") and "${" not in line
    )
    return {name.strip(): value.strip() for name, value in pairs}


def _something_listens(docker_host: str) -> bool:
    """Return whether a connection to DOCKER_HOST succeeds.

    Asked first, because the client of Docker leaks a socket when there is no daemon.
    """
    address = urlsplit(docker_host)
    try:
        if address.scheme == "unix":
            with socket.socket(socket.AF_UNIX) as probe:
                probe.settimeout(_DAEMON_SECONDS)
                probe.connect(address.path)
        elif address.hostname and address.port:
            socket.create_connection((address.hostname, address.port), _DAEMON_SECONDS).close()
    except OSError:
        return False
    return True


def _quietly(module: str) -> Any:
    """Import a module whose deprecation warnings are not ours to mend."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return importlib.import_module(module)
