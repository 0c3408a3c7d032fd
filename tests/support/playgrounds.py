"""The playground as a process of its own, and what tests ask it."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx

_ROOT: Final = Path(__file__).resolve().parents[2]
_PATIENCE: Final = 20.0


@dataclass(frozen=True)
class RunningPlayground:
    """A playground that answers."""

    url: str
    process: subprocess.Popen[str]
    client: httpx.Client
    """For its address; to be used from one thread or many."""

    def get(self, path: str) -> Any:
        """The JSON at ``path``."""
        return self.client.get(path).raise_for_status().json()

    def post(self, path: str, body: Any = None) -> httpx.Response:
        """The answer to a JSON body."""
        return self.client.post(path, json=body)

    def service(self, environment: str, name: str) -> Any:
        """How a service is."""
        return self.get(f"/environments/{environment}/services/{name}")

    def effects(self) -> list[int]:
        """How often each idempotency key took effect."""
        return list(self.get("/calls")["effects"].values())

    def fail_next(self, **fault: Any) -> None:
        """Make the next call to checkout in staging fail."""
        body = {"service": "checkout", "environment": "staging", **fault}
        self.post("/faults", body).raise_for_status()

    def stop(self) -> int:
        """End it, and return its exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(_PATIENCE)


@contextmanager
def running_playground(*arguments: str) -> Iterator[RunningPlayground]:
    """A playground on a free port, for as long as the block runs."""
    process = subprocess.Popen(  # noqa: S603  # our own module
        [sys.executable, "-m", "ops.playground", "--port", "0", *arguments],
        cwd=_ROOT,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert line.startswith("playground at http://"), f"it said {line!r}"
            url = line.removeprefix("playground at ").strip()
            with httpx.Client(base_url=url, trust_env=False) as client:
                yield RunningPlayground(url, process, client)
        finally:
            process.kill()
