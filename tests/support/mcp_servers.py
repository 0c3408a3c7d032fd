"""An MCP server on a free port, and one that an executor starts by itself."""

import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, Self

from support.waiting import wait_until

from ops.local import free_port

_PROGRAM: Final = Path(__file__).with_name("mcp_server_process.py")


def process(notes: Path, **env: str) -> dict[str, Any]:
    """A connection to a server that the executor starts."""
    command = [sys.executable, str(_PROGRAM), str(notes)]
    return {"kind": "mcp_stdio", "command": command, "env": env}


def noted(notes: Path) -> list[str]:
    """The effects that a server has had."""
    return notes.read_text().split() if notes.exists() else []


class HttpMcpServer:
    """A server that listens, can be killed and started again; ends with the block."""

    def __init__(self, notes: Path) -> None:
        self.notes = notes
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def connection(self) -> dict[str, Any]:
        """How the catalogue names it."""
        return {"kind": "mcp_http", "url": f"http://127.0.0.1:{self.port}/mcp"}

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def start(self) -> None:
        """Start it, and return when it listens."""
        self._process = subprocess.Popen(  # noqa: S603  # our own program
            [sys.executable, str(_PROGRAM), str(self.notes), str(self.port)],
            stderr=subprocess.DEVNULL,
        )
        wait_until(self._listens, "the MCP server listens")

    def kill(self) -> None:
        """End it at once."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def _listens(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, "the MCP server did not start"
        with suppress(OSError), socket.create_connection(("127.0.0.1", self.port)):
            return True
        return False
