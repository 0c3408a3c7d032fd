"""Executor ``python``: calls a Python function with the step's parameters.

Consumes ``Step``; emits ``StepResult``. A function takes part by carrying :func:`action_function`,
so that actions.yaml cannot reach any other: that mark, not a list of modules, is the allow-list.
Which function an action means is settled at start-up. Async functions run on the event loop and
must not block it; others run in a thread of their own.
"""

import asyncio
import contextvars
import importlib
import inspect
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Annotated, Any, Final, Self, TypeVar

from pydantic import ValidationInfo, model_validator

from agents.executors.python_arguments import check_call, read_arguments
from agents.runtime.context import Services
from agents.runtime.declarations import Declaration, Matching
from agents.runtime.errors import NotSentError
from agents.runtime.execution import Job, executor
from agents.runtime.outcomes import UnusableAnswerError
from agents.runtime.running import without_effect
from schemas import JsonObject

MAX_THREADS: Final = 32
"""Functions that may run in threads at the same time; a further one waits for half its time."""

_MARK: Final = "__action_function__"

_CANCELLED: Final[contextvars.ContextVar[threading.Event | None]] = contextvars.ContextVar(
    "action_function_cancelled", default=None
)

F = TypeVar("F", bound=Callable[..., Any])


def action_function(function: F) -> F:
    """Allow actions to call ``function``, with parameters as keyword arguments.

    Parameters are read in the types of its annotations, such as ``date`` or an ``Enum``. It returns
    the step's output, a dict of JSON values, and raises the errors of :mod:`agents.runtime.errors`
    to say what a failure means. An async function is cancelled when its time is over or its step
    is. A sync one cannot be stopped: it goes on in its thread, and its outcome is dropped, unless
    it asks :func:`is_cancelled` now and then.
    """
    setattr(function, _MARK, True)
    return function


def is_cancelled() -> bool:
    """Whether nobody waits any more for the sync function that asks; then it had better return."""
    cancelled = _CANCELLED.get()
    return cancelled is not None and cancelled.is_set()


class PythonSettings(Declaration):
    """The ``with`` of an action that the executor ``python`` does."""

    function: Annotated[
        str,
        Matching(
            r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*", "module:function, such as pkg.mod:run"
        ),
    ]
    """The function as module:function"""

    @model_validator(mode="after")
    def _it_can_be_called(self, info: ValidationInfo) -> Self:
        function = resolve(self.function)
        parameters = (info.context or {}).get("parameters")
        if parameters is not None:
            check_call(self.function, function, parameters)
        return self


def resolve(name: str) -> Callable[..., Any]:
    """The function of that name, ``module:function``.

    Raises:
        ValueError: There is none, or it does not carry :func:`action_function`.
    """
    module_name, _, function_name = name.partition(":")
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # a module can raise anything while it is imported
        raise ValueError(
            f"module {module_name} cannot be imported: {type(error).__name__}: {error}"
        ) from error
    function = getattr(module, function_name, None)
    if not callable(function):
        # For pydantic, which takes a ValueError as the field's, and a TypeError as a bug.
        raise ValueError(f"module {module_name} has no function {function_name}")  # noqa: TRY004  # see above
    if getattr(function, _MARK, False) is not True:
        raise ValueError(f"{name} does not carry @action_function, so no action may call it")
    return function  # type: ignore[no-any-return]  # a module's attributes have no known type


@asynccontextmanager
async def open_threads(_: Services) -> AsyncIterator[asyncio.Semaphore]:
    """The permits of threads."""
    yield asyncio.Semaphore(MAX_THREADS)


@executor("python", settings=PythonSettings, client=open_threads)
async def call(job: Job[PythonSettings], permits: asyncio.Semaphore) -> JsonObject:
    """Call the action's function; returns what it returns."""
    function = resolve(job.settings.function)
    bound = partial(function, **read_arguments(function, job.parameters))
    if inspect.iscoroutinefunction(function):
        output = await bound()
    else:
        output = await _in_thread(bound, permits, patience=job.step.timeout / 2)
    missing = sorted(set(job.action.outputs) - set(output if isinstance(output, dict) else ()))
    if missing:
        raise UnusableAnswerError(
            f"{job.settings.function} did not return {', '.join(missing)}", code="bug"
        )
    return output  # type: ignore[no-any-return]  # the policy checks that it is a JSON object


async def _in_thread(
    function: Callable[[], Any], permits: asyncio.Semaphore, *, patience: float
) -> Any:
    """Call ``function`` in a daemon thread, which does not hold up the end of the process.

    A thread keeps its permit until it ends, even when nobody waits for its outcome any more.

    Raises:
        NotSentError: No permit came free within ``patience`` seconds.
    """
    await _acquire(permits, patience)
    loop = asyncio.get_running_loop()
    future: asyncio.Future[Any] = loop.create_future()
    context = contextvars.copy_context()
    cancelled = threading.Event()
    context.run(_CANCELLED.set, cancelled)

    def settle(result: Any, error: Exception | None) -> None:
        permits.release()
        if future.cancelled():
            return
        if isinstance(error, StopIteration):
            future.set_exception(RuntimeError("the function raised StopIteration"))
        elif error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)

    def work() -> None:
        result: Any = None
        error: Exception | None = None
        try:
            result = context.run(function)
        except Exception as raised:  # noqa: BLE001  # handed to whoever waits
            error = raised
        except BaseException as raised:  # noqa: BLE001  # sys.exit() must not end the process
            error = RuntimeError(f"the function raised {type(raised).__name__}")
        try:
            loop.call_soon_threadsafe(settle, result, error)
        except RuntimeError:
            return  # the loop has closed: the process is ending, and nobody waits

    threading.Thread(target=work, name="action-function", daemon=True).start()
    try:
        return await future
    except asyncio.CancelledError:
        cancelled.set()
        raise


async def _acquire(permits: asyncio.Semaphore, patience: float) -> None:
    try:
        with without_effect():
            async with asyncio.timeout(patience):
                await permits.acquire()
    except TimeoutError:
        raise NotSentError(f"{MAX_THREADS} functions are running, none has ended") from None
