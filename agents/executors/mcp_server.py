"""One MCP server, owned by one task.

The MCP client lives in cancel scopes that must be left by the task that entered them, and when its
transport dies it cancels that task. So nobody but the owner enters it: callers put a job into a
queue and wait for its future, which no scope of the client's can reach. The owner connects when
there is something to do, and anew when the connection is gone.
"""

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

import structlog
from mcp import Client, MCPError
from mcp_types import (
    HEADER_MISMATCH,
    INVALID_PARAMS,
    METHOD_NOT_FOUND,
    CallToolResult,
)
from pydantic import ValidationError

from agents.executors.mcp_transport import CURRENT, Sending
from agents.runtime.errors import (
    MillstreamError,
    NotSentError,
    OutcomeUnknownError,
    PermanentError,
)
from agents.runtime.outcomes import UnusableAnswerError
from agents.runtime.running import called_off
from schemas import JsonObject

Open = Callable[[], AbstractAsyncContextManager[tuple[Any, Any]]]
"""Opens the streams to a server."""

_AT_ONCE: Final = 16
"""Calls of one process that a server has at the same time."""
_CONNECT_SECONDS: Final = 30.0
"""How long a server may take to start and to introduce itself."""
_ANSWER_SECONDS: Final = 0.5
"""How long before a step's time is up a call is given up, so that the server can be told."""
#: Errors by which a server says that it did not run the tool.
_REFUSALS: Final = frozenset({METHOD_NOT_FOUND, INVALID_PARAMS, HEADER_MISMATCH})
#: What the client makes of HTTP 404 for a session: the server does not know it (any more).
_SESSION_GONE: Final = "Session terminated"
#: After these the connection is of no use to anybody; any other failure is that of one request.
_CONNECTION_GONE: Final = frozenset({"Connection closed", _SESSION_GONE})

_log = structlog.get_logger(__name__)


@dataclass(eq=False)
class _Job:
    tool: str
    arguments: JsonObject
    meta: dict[str, Any]
    seconds: float
    answer: "asyncio.Future[CallToolResult]"
    taken: asyncio.Event = field(default_factory=asyncio.Event)
    sending: Sending = field(default_factory=Sending)

    def fail(self, error: MillstreamError) -> None:
        if not self.answer.done():
            self.answer.set_exception(error)


class McpServer:
    """Calls the tools of one server.

    Args:
        name: What errors call it.
        open_streams: Opens the way to it.
    """

    def __init__(self, name: str, open_streams: Open) -> None:
        self._name = name
        self._open = open_streams
        self._jobs: asyncio.Queue[_Job | None] = asyncio.Queue()
        """``None`` wakes an owner whose connection is gone."""
        self._owner = asyncio.create_task(self._own(), name=f"mcp-{name}")

    async def close(self) -> None:
        """End the connection, and the process if the server is one."""
        self._owner.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._owner

    async def call(
        self, tool: str, arguments: JsonObject, *, meta: dict[str, Any], seconds: float
    ) -> CallToolResult:
        """Call a tool and return what it gave back, which may be that it failed.

        Raises:
            NotSentError: The call never left this process.
            PermanentError: The server does not know the tool, or refuses the arguments.
            UnusableAnswerError: The tool was run, but its answer breaks the protocol or the
                tool's own schema.
            OutcomeUnknownError: There was no definite answer.
        """
        loop = asyncio.get_running_loop()
        job = _Job(tool, arguments, meta, seconds, loop.create_future())
        self._jobs.put_nowait(job)
        taken = asyncio.create_task(job.taken.wait())
        try:
            either = (job.answer, taken)
            await asyncio.wait(either, timeout=seconds / 2, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError as error:
            job.answer.cancel()
            if not job.taken.is_set():
                raise called_off() from error
            raise
        finally:
            taken.cancel()
        if not job.answer.done() and not job.taken.is_set():
            job.answer.cancel()
            raise NotSentError(f"{self._name} took up no call within {seconds / 2:g} s")
        return await job.answer

    async def _own(self) -> None:
        while True:
            job = await self._jobs.get()
            if job is None or job.answer.done():
                continue
            try:
                await self._serve(job)
            except asyncio.CancelledError:
                current = asyncio.current_task()
                if current is not None and current.cancelling():
                    raise
                # The client cancelled its own scope, as it does when its transport dies.
                self._give_up(job, "the connection was cancelled")
            except MillstreamError as error:
                job.fail(error)
            except Exception as error:  # noqa: BLE001  # of a transport, a process, a protocol
                self._give_up(job, _say(error))

    def _give_up(self, first: _Job, reason: str) -> None:
        """Fail all who wait for a connection; each failing by itself would take its time."""
        _log.warning("mcp_disconnected", server=self._name, reason=reason)
        waiting = [first]
        while not self._jobs.empty():
            job = self._jobs.get_nowait()
            waiting.extend([job] if job is not None else [])
        for job in waiting:
            if not job.taken.is_set():
                job.fail(NotSentError(f"{self._name} cannot be reached: {reason}"))

    async def _serve(self, first: _Job) -> None:
        """Connect, and run jobs until the connection is gone."""
        async with contextlib.AsyncExitStack() as stack:
            async with asyncio.timeout(_CONNECT_SECONDS):
                client = await stack.enter_async_context(Client(self._open(), cache=None))
            permits, is_gone = asyncio.Semaphore(_AT_ONCE), asyncio.Event()
            async with asyncio.TaskGroup() as group:
                job: _Job | None = first
                while not is_gone.is_set():
                    if job is not None and not job.answer.done():
                        await permits.acquire()
                        self._start(job, group, permits, partial(self._run, client, job, is_gone))
                    job = await self._jobs.get()
                if job is not None:
                    self._jobs.put_nowait(job)

    def _start(
        self,
        job: _Job,
        group: asyncio.TaskGroup,
        permits: asyncio.Semaphore,
        run: Callable[[], Coroutine[Any, Any, None]],
    ) -> None:
        if job.answer.done():  # nobody waits for it any more
            permits.release()
            return
        job.taken.set()
        task = group.create_task(run())
        task.add_done_callback(partial(self._ended, job, permits))
        job.answer.add_done_callback(partial(_cancel, task))

    def _ended(self, job: _Job, permits: asyncio.Semaphore, _: "asyncio.Task[None]") -> None:
        """Also of a call that was cancelled before it began."""
        permits.release()
        job.fail(self._lost(job, "the connection was cancelled"))

    async def _run(self, client: Client, job: _Job, is_gone: asyncio.Event) -> None:
        CURRENT.set(job.sending)
        try:
            result = await client.call_tool(
                job.tool,
                job.arguments,
                read_timeout_seconds=max(job.seconds - _ANSWER_SECONDS, job.seconds / 2),
                meta=job.meta,  # type: ignore[arg-type]  # a TypedDict that is open for more
            )
            if not job.answer.done():
                job.answer.set_result(result)
        except MCPError as error:
            job.fail(self._meaning(job, error))
            if error.message in _CONNECTION_GONE:
                is_gone.set()
                self._jobs.put_nowait(None)
        except Exception as error:  # noqa: BLE001  # whatever a transport raises
            if job.sending.was_sent and isinstance(error, ValidationError | RuntimeError):
                job.fail(self._unusable(job, error))
            else:
                job.fail(self._lost(job, _say(error)))

    def _unusable(self, job: _Job, error: Exception) -> MillstreamError:
        return UnusableAnswerError(
            f"{self._name} answered {job.tool} with what the protocol or the tool's schema does "
            f"not allow: {_say(error)}",
            code="invalid_message",
        )

    def _meaning(self, job: _Job, error: MCPError) -> MillstreamError:
        if error.message == _SESSION_GONE:
            return NotSentError(f"{self._name} has ended the session")
        if error.code in _REFUSALS:
            return PermanentError(
                f"{self._name} refuses {job.tool}: {error.message}", code="invalid_parameters"
            )
        return self._lost(job, error.message)

    def _lost(self, job: _Job, reason: str) -> MillstreamError:
        if not job.sending.was_sent:
            return NotSentError(f"{self._name}: {job.tool} was not sent: {reason}")
        return OutcomeUnknownError(f"{self._name}: no definite answer to {job.tool}: {reason}")


def _cancel(task: "asyncio.Task[None]", answer: "asyncio.Future[CallToolResult]") -> None:
    """Whoever gives up waiting wants the call itself to be given up."""
    if answer.cancelled():
        task.cancel()


def _say(error: BaseException) -> str:
    """What went wrong inside the groups that task groups make."""
    if isinstance(error, BaseExceptionGroup):
        return "; ".join(_say(inner) for inner in error.exceptions)
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
