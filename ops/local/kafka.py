"""Apache Kafka from its jars: one node, KRaft, no Docker and no ZooKeeper."""

import base64
import string
import subprocess
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from ops.local.kafka_jars import KAFKA_FILES, java_program
from ops.local.ports import LOOPBACK, free_port
from ops.local.process import LocalProcess
from ops.local.tansu import answers

_FORMAT_SECONDS: Final = 60
# Compiles with the quick compiler only: a shorter start, a slower broker.
_FAST_START: Final = ("-XX:TieredStopAtLevel=1", "-Xshare:auto")


class KafkaBroker(LocalProcess):
    """A broker whose data outlives it: started again on the same folder, its topics are there.

    Args:
        folder: Where its data, configuration and log go.
        libs: The folder of Kafka's jars, see ``resolve_kafka_jars``.
        port: The loopback port for clients; None for a free one.
        fast_start: Start sooner and run slower; right for tests, wrong for measuring.
        heap: Size of the Java heap, as Java writes sizes.
        settings: More broker settings, which win over those of server.properties.template. After
            ``kill`` a start takes as long as ``broker.session.timeout.ms`` (9 s), since the
            controller still holds the dead broker's session; tests that kill may shorten it.
    """

    def __init__(
        self,
        folder: Path,
        libs: Path,
        port: int | None = None,
        *,
        fast_start: bool = False,
        heap: str = "512m",
        settings: Mapping[str, str] | None = None,
    ) -> None:
        self._settings = dict(settings or {})
        self.port = port if port is not None else free_port()
        self._controller_port = free_port()
        self._data_folder = folder / "data"
        self._properties = folder / "server.properties"
        self._java = [
            *(java_program(), "-XX:+UseSerialGC", *(_FAST_START if fast_start else ())),
            *("-cp", f"{libs}/*", f"-Dlog4j2.configurationFile={KAFKA_FILES / 'log4j2.yaml'}"),
        ]
        super().__init__(
            "Apache Kafka",
            [*self._java, f"-Xms{heap}", f"-Xmx{heap}", "kafka.Kafka", str(self._properties)],
            folder=folder,
            port=self.port,
            ready=lambda: answers(self.port),
            start_timeout=60.0,
            stop_timeout=20.0,
            hint="Another folder, other ports or more free memory may help.",
        )

    @property
    def bootstrap_servers(self) -> str:
        """The address that Kafka clients connect to."""
        return f"{LOOPBACK}:{self.port}"

    def start(self) -> None:
        """Write the configuration, format the data folder the first time, start and wait."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self._properties.write_text(self._configuration())
        if not (self._data_folder / "meta.properties").exists():
            self._format()
        super().start()

    def _configuration(self) -> str:
        template = string.Template((KAFKA_FILES / "server.properties.template").read_text())
        text = template.substitute(
            port=self.port,
            controller_port=self._controller_port,
            data_folder=self._data_folder,
        )
        # Of a key that is there twice, Java takes the last value.
        return text + "".join(f"{name}={value}\n" for name, value in self._settings.items())

    def _format(self) -> None:
        # Kafka's ids are 16 bytes in URL-safe base64 without padding.
        cluster_id = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
        command = [
            *(*self._java, "-XX:TieredStopAtLevel=1", "kafka.tools.StorageTool", "format"),
            *(f"--cluster-id={cluster_id}", "--config", str(self._properties)),
        ]
        with self.open_log() as log:
            result = subprocess.run(  # noqa: S603 - the command is ours, no shell
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                timeout=_FORMAT_SECONDS,
                check=False,
            )
        if result.returncode:
            raise self.start_error(f"could not format its data folder {self._data_folder}")
