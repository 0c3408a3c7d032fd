"""The jars of Apache Kafka, fetched once by Maven into a cache, and a Java to run them."""

import fcntl
import functools
import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from ops.local.process import ServerStartError

KAFKA_FILES: Final = Path(__file__).resolve().parents[1] / "kafka"
"""The folder of pom.xml and of the broker's configuration."""

CACHE_VARIABLE: Final = "MILLSTREAM_KAFKA_CACHE"
"""Names another folder for the cache than ``.millstream/kafka`` in the checkout."""

_OLDEST_JAVA: Final = 17
_DOWNLOAD_SECONDS: Final = 600
_INSTEAD: Final = "or use the embedded broker or the address of a running one."


class KafkaJarsUnavailableError(ServerStartError):
    """Apache Kafka cannot be run here; the message names what to install."""


@functools.cache
def java_program() -> str:
    """Return the path of a Java that can run Kafka: that of JAVA_HOME, else that on the PATH.

    Raises:
        KafkaJarsUnavailableError: There is none, or it is too old.
    """
    home = os.environ.get("JAVA_HOME")
    program = shutil.which("java", path=f"{home}/bin") if home else shutil.which("java")
    wanted = f"install a Java runtime, version {_OLDEST_JAVA} or later (such as OpenJDK),"
    if program is None:
        where = f"in JAVA_HOME ({home})" if home else "on the PATH"
        raise KafkaJarsUnavailableError(
            f"Apache Kafka needs Java, and there is none {where}: {wanted} {_INSTEAD}"
        )
    answer = subprocess.run(  # noqa: S603 - a fixed command
        [program, "-version"], capture_output=True, text=True, check=False, timeout=60
    )
    # `openjdk version "17.0.15" 2025-04-15`; Java 8 calls itself "1.8".
    version = re.search(r'version "(\d+)', answer.stderr)
    if answer.returncode or version is None or int(version[1]) < _OLDEST_JAVA:
        found = (answer.stderr or answer.stdout).strip().partition("\n")[0] or "no version"
        raise KafkaJarsUnavailableError(
            f"Apache Kafka needs Java {_OLDEST_JAVA} or later, but {program} says: {found}. "
            f"Please {wanted} {_INSTEAD}"
        )
    return program


def resolve_kafka_jars(cache: Path | None = None, *, pom: Path = KAFKA_FILES / "pom.xml") -> Path:
    """Return a folder with the jars that ``pom`` names, fetching them the first time.

    Several processes may call this at once: one fetches, the others wait for it. A folder under
    its final name is complete.

    Args:
        cache: The folder of the cache; None for the one that ``MILLSTREAM_KAFKA_CACHE`` names,
            else ``.millstream/kafka`` in the checkout.
        pom: The Maven file. The jars' folder is named by its content, so a new pin is fetched
            beside the old one.

    Raises:
        KafkaJarsUnavailableError: Java or Maven is missing, or the jars could not be fetched.
    """
    java_program()
    if cache is None:
        cache = Path(os.environ.get(CACHE_VARIABLE) or default_cache())
    digest = hashlib.sha256(pom.read_bytes()).hexdigest()[:12]
    libs = cache / f"libs-{digest}"
    if libs.is_dir():
        return libs
    cache.mkdir(parents=True, exist_ok=True)
    with _locked(cache / "lock"):
        if not libs.is_dir():
            _fetch(pom, libs)
    return libs


def default_cache() -> Path:
    """Return the folder under which this checkout keeps Kafka's jars."""
    return KAFKA_FILES.parents[1] / ".millstream" / "kafka"


def _fetch(pom: Path, libs: Path) -> None:
    maven = shutil.which("mvn")
    if maven is None:
        raise KafkaJarsUnavailableError(
            "fetching Apache Kafka needs Maven, and there is no mvn on the PATH: "
            f"install Maven 3 (package maven), {_INSTEAD}"
        )
    with tempfile.TemporaryDirectory(dir=libs.parent, prefix="fetching-") as folder:
        jars = Path(folder) / "libs"
        command = [
            *(maven, "--quiet", "--batch-mode", "--file", str(pom)),
            *("dependency:copy-dependencies", f"-DoutputDirectory={jars}"),
        ]
        try:
            result = subprocess.run(  # noqa: S603 - a fixed command
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                check=False,
                timeout=_DOWNLOAD_SECONDS,
            )
        except subprocess.TimeoutExpired as error:
            raise KafkaJarsUnavailableError(
                f"Maven did not fetch Apache Kafka within {_DOWNLOAD_SECONDS} s; is a Maven "
                f"repository reachable? Try again, {_INSTEAD}"
            ) from error
        if result.returncode or not any(jars.glob("kafka_*.jar")):
            said = "\n".join(f"    {line}" for line in result.stdout.splitlines()[-8:])
            raise KafkaJarsUnavailableError(
                f"Maven could not fetch Apache Kafka (status {result.returncode}). It says:\n"
                f"{said}\nCheck that a Maven repository is reachable and try again, {_INSTEAD}"
            )
        jars.rename(libs)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
