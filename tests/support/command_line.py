"""The command line as a person uses it: a process with output and an exit code."""

import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any, Self

_PATIENCE = 90.0


class Answer:
    """What a command printed and how it ended."""

    def __init__(self, finished: "subprocess.CompletedProcess[str]") -> None:
        self.code = finished.returncode
        self.out = finished.stdout
        self.err = finished.stderr

    def __repr__(self) -> str:
        return f"exit code {self.code}\n{self.out}\n--- stderr ---\n{self.err}"

    @property
    def json(self) -> Any:
        return json.loads(self.out)


def environment(**more: str) -> dict[str, str]:
    """The environment of a person who has set nothing of ours."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("MILLSTREAM_")}
    return {**own, **more}


def millstream(*arguments: str | Path, state: Path, **variables: str) -> Answer:
    """Run a command against the stack on the folder ``state``, if there is one."""
    return Answer(
        subprocess.run(  # noqa: S603 - our own command
            [sys.executable, "-m", "ops.cli", "--state", str(state), *map(str, arguments)],
            capture_output=True,
            text=True,
            check=False,
            timeout=_PATIENCE,
            stdin=subprocess.DEVNULL,
            env=environment(**variables),
        )
    )


class RunningUp:
    """``millstream up`` in a process of its own; ended with the block."""

    def __init__(self, state: Path, *arguments: str) -> None:
        self.state = state
        self.lines: list[str] = []
        self._ready = threading.Event()
        self.process = subprocess.Popen(  # noqa: S603 - our own command
            [sys.executable, "-m", "ops.cli", "up", "--state", str(state), *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            text=True,
            env=environment(PYTHONUNBUFFERED="1"),
        )
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    @property
    def output(self) -> str:
        return "".join(self.lines)

    def run(self, *arguments: str | Path, **variables: str) -> Answer:
        """A command against this stack."""
        return millstream(*arguments, state=self.state, **variables)

    def stop(self) -> int:
        """Ask it to end, and give its exit code."""
        if self.process.poll() is None:
            self.process.terminate()
        return self.wait()

    def wait(self) -> int:
        """Wait for its end, and give its exit code."""
        code = self.process.wait(_PATIENCE)
        self._reader.join(_PATIENCE)
        return code

    def __enter__(self) -> Self:
        if not self._ready.wait(_PATIENCE) or self.process.poll() is not None:
            self.stop()
            raise AssertionError(f"the stack did not come up:\n{self.output}")
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as output:
            for line in output:
                self.lines.append(line)
                if line.startswith("Ready"):
                    self._ready.set()
        self._ready.set()
