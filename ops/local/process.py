"""A server that runs as a child process, and is never left behind.

The child has its own session, so Ctrl-C in the terminal reaches only its owner, which then stops
things in order. If the owner dies, a guard process ends the child (see ``guard.py``).
"""

import atexit
import os
import pwd
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Final, Self

import psutil

from agents.runtime.errors import ConfigurationError
from ops.local import guard
from ops.local.ports import is_listening

_POLL_SECONDS: Final = 0.03
_KILL_SECONDS: Final = 10.0
_TAIL_LINES: Final = 15
_TAIL_BYTES: Final = 16_384


class ServerStartError(ConfigurationError):
    """A local server did not come up; the message has the end of its log and what to do."""


class LocalProcess:
    """One child process with its log, its readiness and its end.

    A context manager: entering starts it and waits until it is ready, leaving stops it.

    Args:
        name: What it is called in messages, such as ``Apache Kafka``.
        command: The program and its arguments.
        folder: Its working directory, made if need be; the log goes to ``<folder>/server.log``.
        ready: Returns whether it answers requests; asked again and again, so it must be quick and
            must not raise.
        port: The loopback port it will listen on, if any: starting is refused while another
            process listens there, since ``ready`` might take that one for ours.
        environment: Its whole environment; None for a copy of ours.
        user: Name of the user to run it as; None for ours.
        start_timeout: Seconds until it must be ready.
        stop_timeout: Seconds it may take to end after ``stop_signal``; then it is killed.
        stop_signal: What asks it to end.
        hint: What a person can do when it does not start, as a sentence.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        *,
        folder: Path,
        ready: Callable[[], bool],
        port: int | None = None,
        environment: Mapping[str, str] | None = None,
        user: str | None = None,
        start_timeout: float = 30.0,
        stop_timeout: float = 10.0,
        stop_signal: signal.Signals = signal.SIGTERM,
        hint: str = "",
    ) -> None:
        self.name = name
        self.folder = folder
        self._command = list(command)
        self._ready = ready
        self._port = port
        self._environment = environment
        self._user = user
        self._start_timeout = start_timeout
        self._stop_timeout = stop_timeout
        self._stop_signal = stop_signal
        self._hint = hint
        self._process: subprocess.Popen[bytes] | None = None
        self._guard: subprocess.Popen[bytes] | None = None

    @property
    def log_file(self) -> Path:
        """Where everything goes that the process prints, over all its starts."""
        return self.folder / "server.log"

    @property
    def pid(self) -> int:
        """The id of the running process.

        Raises:
            RuntimeError: It is not running.
        """
        if self._process is None:
            raise RuntimeError(f"{self.name} is not running")
        return self._process.pid

    @property
    def is_running(self) -> bool:
        """Whether the process exists, be it paused or not yet ready."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start the process and wait until it is ready.

        Raises:
            ServerStartError: It ended, or was not ready in time; it has been killed then.
            RuntimeError: It is running already.
        """
        if self.is_running:
            raise RuntimeError(f"{self.name} is running already, as process {self.pid}")
        self._release()
        if self._port is not None and is_listening(self._port):
            raise ServerStartError(
                f"{self.name} cannot start: another process listens on port {self._port}. "
                "Stop that process or choose another port."
            )
        try:
            self._spawn()
            self._wait_until_ready()
        except BaseException:
            self.kill()
            raise

    def stop(self) -> None:
        """Ask the process to end, kill it if it takes too long; nothing if it is not running."""
        self._end(self._stop_signal)

    def kill(self) -> None:
        """End the process and its children with SIGKILL, as a crash does."""
        if self._process is None:
            return
        # Stopped first, so that it cannot start another child while we look for them.
        self._signal(self._process.pid, signal.SIGSTOP)
        children = self._children()
        for pid in (self._process.pid, *(child.pid for child in children)):
            self._signal(pid, signal.SIGKILL)
        self._process.wait(_KILL_SECONDS)
        _wait_until_gone(children)
        self._release()

    def pause(self) -> None:
        """Freeze the process and its children: connections stay open, nothing answers."""
        self._signal(self.pid, signal.SIGSTOP)
        for child in self._children():
            self._signal(child.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Let the process go on after ``pause``."""
        for child in self._children():
            self._signal(child.pid, signal.SIGCONT)
        self._signal(self.pid, signal.SIGCONT)

    def log_tail(self, lines: int = _TAIL_LINES) -> str:
        """Return the last lines of the log."""
        try:
            with self.log_file.open("rb") as log:
                log.seek(max(0, log.seek(0, os.SEEK_END) - _TAIL_BYTES))
                text = log.read().decode(errors="replace")
        except FileNotFoundError:
            return ""
        return "\n".join(text.splitlines()[-lines:])

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def start_error(self, what: str) -> ServerStartError:
        """Return the error that says what happened, with the end of the log and what to do."""
        tail = self.log_tail() or "(it printed nothing)"
        indented = "\n".join(f"    {line}" for line in tail.splitlines())
        message = f"{self.name} {what}. The end of its log, {self.log_file}:\n{indented}"
        return ServerStartError(f"{message}\n{self._hint}" if self._hint else message)

    def open_log(self) -> IO[bytes]:
        """Open the log for appending."""
        self.folder.mkdir(parents=True, exist_ok=True)
        return self.log_file.open("ab")

    def _spawn(self) -> None:
        with self.open_log() as log:
            self._process = subprocess.Popen(  # noqa: S603 - the command is ours, no shell
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self.folder,
                env=self._environment,
                start_new_session=True,
                user=self._user,
                group=None if self._user is None else pwd.getpwnam(self._user).pw_gid,
                extra_groups=None if self._user is None else (),
            )
        self._guard = subprocess.Popen(  # noqa: S603 - as above
            [
                *(sys.executable, "-I", "-S", guard.__file__),
                *(str(self._process.pid), str(int(self._stop_signal)), str(self._stop_timeout)),
            ],
            stdin=subprocess.PIPE,
            cwd="/",
            start_new_session=True,
        )
        atexit.register(self.stop)

    def _wait_until_ready(self) -> None:
        assert self._process is not None  # noqa: S101 - start() has just set it
        deadline = time.monotonic() + self._start_timeout
        while True:
            ready = self._ready()
            status = self._process.poll()
            if status is not None:
                raise self.start_error(f"ended with status {status} instead of starting")
            if ready:
                return
            if time.monotonic() >= deadline:
                raise self.start_error(f"was not ready after {self._start_timeout:g} s")
            time.sleep(_POLL_SECONDS)

    def _end(self, stop_signal: signal.Signals) -> None:
        if self._process is None:
            return
        if self.is_running:
            self.resume()  # a paused process would not notice
            self._signal(self._process.pid, stop_signal)
            try:
                self._process.wait(self._stop_timeout)
            except subprocess.TimeoutExpired:
                self.kill()
        self._release()

    def _release(self) -> None:
        """Dismiss the guard of a process that has ended."""
        atexit.unregister(self.stop)
        if self._guard is not None:
            try:
                self._guard.communicate(b"ended\n", timeout=_KILL_SECONDS)
            except subprocess.TimeoutExpired:
                self._guard.kill()
                self._guard.wait()
        self._process = self._guard = None

    def _children(self) -> list[psutil.Process]:
        try:
            return psutil.Process(self.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return []

    @staticmethod
    def _signal(pid: int, number: signal.Signals) -> None:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            return  # it has just ended by itself


def _wait_until_gone(processes: Sequence[psutil.Process]) -> None:
    """Wait for processes that are not our children; a zombie that nobody reaps counts as gone."""
    deadline = time.monotonic() + _KILL_SECONDS
    while any(_is_alive(process) for process in processes) and time.monotonic() < deadline:
        time.sleep(_POLL_SECONDS)


def _is_alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
