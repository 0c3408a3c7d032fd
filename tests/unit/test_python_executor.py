"""The executor ``python``, and the functions that ship with it."""

import asyncio
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime
from enum import Enum
from types import ModuleType
from typing import Any

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from support.clocks import RecordingClock
from support.steps import Rig, action
from support.waiting import eventually

from agents.executors import SETTINGS_MODELS, python
from agents.executors.functions import compare_versions
from agents.executors.python import MAX_THREADS, PythonSettings, action_function, is_cancelled
from agents.runtime.catalogue import load_catalogue
from agents.runtime.clock import SystemClock
from agents.runtime.errors import ConfigurationError, PermanentError
from agents.runtime.settings import ROOT
from schemas import JsonObject, StepResult

MODULE = "functions_of_a_test"

Offer = Callable[[Callable[..., Any]], None]


@pytest.fixture(autouse=True)
def _no_log() -> Iterator[None]:
    with structlog.testing.capture_logs():
        yield


@pytest.fixture
def offer() -> Iterator[Offer]:
    """Put functions into a module that actions can name."""
    module = ModuleType(MODULE)
    sys.modules[MODULE] = module
    yield lambda function: setattr(module, function.__name__, function)
    del sys.modules[MODULE]


def rig_for(name: str, *, effect: str = "read", **fields: Any) -> Rig:
    settings = {"function": f"{MODULE}:{name}"}
    return Rig(
        (action(executor="python", effect=effect, settings=settings, **fields),),
        clock=RecordingClock(),
    )


async def run(rig: Rig, **parameters: Any) -> StepResult:
    assignment = await rig.approved(parameters)
    async with rig.hosted(python.call) as handler:
        return await assignment.run(handler)


def ending(result: StepResult) -> tuple[str, str, bool]:
    assert result.failure is not None
    return result.status, result.failure.code, result.failure.retriable


async def test_calls_a_sync_function_in_a_thread_with_keyword_arguments(offer: Offer) -> None:
    @action_function
    def add(first: int, second: int = 10) -> JsonObject:
        on_loop = threading.current_thread() is threading.main_thread()
        return {"sum": first + second, "on_loop": on_loop}

    offer(add)
    rig = rig_for("add", parameters={"first": "integer", "second": "integer"})
    assert (await run(rig, first=1, second=2)).output == {"sum": 3, "on_loop": False}


async def test_calls_an_async_function_on_the_loop(offer: Offer) -> None:
    @action_function
    async def ask() -> JsonObject:
        await asyncio.sleep(0)
        return {"on_loop": threading.current_thread() is threading.main_thread()}

    offer(ask)
    assert (await run(rig_for("ask"))).output == {"on_loop": True}


async def test_an_error_of_the_tree_means_what_it_means(offer: Offer) -> None:
    @action_function
    def refuse() -> JsonObject:
        raise PermanentError("not on a Friday", code="policy_denied")

    offer(refuse)
    assert ending(await run(rig_for("refuse"))) == ("failed", "policy_denied", False)


@pytest.mark.parametrize(
    "raised", [ZeroDivisionError, StopIteration, SystemExit, KeyboardInterrupt]
)
async def test_any_other_error_is_a_bug_and_ends_nothing_but_the_step(
    offer: Offer, raised: type[BaseException]
) -> None:
    @action_function
    def fail() -> JsonObject:
        raise raised

    offer(fail)
    assert ending(await run(rig_for("fail"))) == ("failed", "bug", False)
    assert ending(await run(rig_for("fail", effect="effect"))) == ("unknown", "bug", False)


async def test_a_declared_output_that_is_not_returned_is_a_bug(offer: Offer) -> None:
    @action_function
    def answer() -> JsonObject:
        return {"one": 1}

    offer(answer)
    result = await run(rig_for("answer", outputs=("one", "two")))
    assert ending(result) == ("failed", "bug", False)
    assert result.failure is not None
    assert "did not return two" in result.failure.reason


async def test_a_function_that_hangs_is_given_up_and_does_not_hold_up_the_end(
    offer: Offer,
) -> None:
    release = threading.Event()

    @action_function
    def hang() -> JsonObject:
        release.wait()
        return {}

    offer(hang)
    try:
        result = await run(rig_for("hang", timeout="50ms"))
        assert ending(result) == ("failed", "timeout", True)
        hanging = [thread for thread in threading.enumerate() if thread.name == "action-function"]
        assert hanging
        assert all(thread.daemon for thread in hanging)
    finally:
        release.set()


async def test_when_all_threads_hang_a_further_function_is_not_started(offer: Offer) -> None:
    release, started = threading.Event(), []

    @action_function
    def hang() -> JsonObject:
        started.append(1)
        release.wait()
        return {}

    offer(hang)
    rig = rig_for("hang", effect="effect", timeout="100ms")
    rig.clock = SystemClock()
    steps = [await rig.approved() for _ in range(MAX_THREADS)]
    try:
        async with rig.hosted(python.call) as handler:
            results = await asyncio.gather(*(step.run(handler) for step in steps))
            assert {ending(result) for result in results} == {("unknown", "timeout", False)}
            late = await (await rig.approved()).run(handler)
            assert ending(late) == ("failed", "not_sent", True)
            assert len(started) == MAX_THREADS
            release.set()
            while len([t for t in threading.enumerate() if t.name == "action-function"]) > 0:
                await asyncio.to_thread(_join_one)
            assert (await (await rig.approved()).run(handler)).status == "success"
    finally:
        release.set()


def _join_one() -> None:
    for thread in threading.enumerate():
        if thread.name == "action-function":
            thread.join(5)


# --- what may be called


def plain() -> JsonObject:
    return {}


@action_function
def needs_name(name: str) -> JsonObject:
    return {"name": name}


@pytest.mark.parametrize(
    ("function", "complaint"),
    [
        ("os:system", "does not carry @action_function"),
        (f"{MODULE}:plain", "does not carry @action_function"),
        (f"{MODULE}:missing", "has no function missing"),
        (f"{MODULE}:__name__", "has no function __name__"),
        ("no.such.module:run", "cannot be imported: ModuleNotFoundError"),
        (f"{MODULE}:needs_name", "missing a required argument: 'name'"),
        ("os.system", "no text|module:function"),
        ("os:path.join", "module:function"),
        ("", "module:function"),
    ],
)
def test_what_actions_must_not_call_is_refused(offer: Offer, function: str, complaint: str) -> None:
    offer(plain)
    offer(needs_name)
    with pytest.raises(ValidationError, match=complaint):
        PythonSettings.model_validate({"function": function}, context={"parameters": ()})


def test_a_parameter_that_is_no_argument_is_refused(offer: Offer) -> None:
    offer(needs_name)
    with pytest.raises(ValidationError, match="unexpected keyword argument 'age'"):
        PythonSettings.model_validate(
            {"function": f"{MODULE}:needs_name"}, context={"parameters": ("name", "age")}
        )


async def test_the_function_is_looked_for_when_the_process_starts() -> None:
    with pytest.raises(ConfigurationError, match="cannot be imported"):
        async with rig_for("gone").hosted(python.call):
            pass


# --- the shipped functions


@pytest.mark.parametrize(
    ("first", "second", "newer"),
    [
        ("2.4.1", "2.4.0", "first"),
        ("2.4.1", "2.10.0", "second"),
        ("v2.4", "2.4.0", "neither"),
        ("2.4.1", "2.4.1+build.7", "neither"),
        ("2.5.0-rc.1", "2.5.0", "second"),
        ("2.5.0-rc.2", "2.5.0-rc.10", "second"),
        ("2.5.0-rc", "2.5.0-rc.1", "second"),
        ("2.5.0-1", "2.5.0-alpha", "second"),
        ("2.5.0-beta", "2.5.0-alpha.9", "first"),
        ("1.0.0.1", "1.0.0", "first"),
    ],
)
def test_versions_compare_as_semantic_versioning_says(first: str, second: str, newer: str) -> None:
    answer = compare_versions(first, second)
    assert answer["newer"] == newer
    assert answer["same"] == (newer == "neither")
    assert first in str(answer["summary"])


VERSIONS = st.from_regex(r"\A[0-9]{1,3}(\.[0-9]{1,3}){0,2}(-[a-z0-9]{1,3}(\.[a-z0-9]{1,3})?)?\Z")


@given(VERSIONS, VERSIONS)
def test_comparing_the_other_way_round_gives_the_other_answer(first: str, second: str) -> None:
    mirror = {"first": "second", "second": "first", "neither": "neither"}
    here, there = compare_versions(first, second), compare_versions(second, first)
    assert there["newer"] == mirror[str(here["newer"])]


@pytest.mark.parametrize("text", ["", "latest", "1..2", "1.2-", "١.٢", "1" * 40])
def test_what_is_no_version_is_refused(text: str) -> None:
    with pytest.raises(PermanentError, match="no version"):
        compare_versions(text, "1.0.0")


async def test_the_shipped_action_compares_versions() -> None:
    spec = load_catalogue(ROOT / "actions.yaml", SETTINGS_MODELS).action("versions.compare")
    result = await run(Rig((spec,)), first="2.4.1", second="2.5.0")
    assert result.output == {
        "same": False,
        "newer": "second",
        "summary": "2.5.0 is newer than 2.4.1.",
    }


class Size(Enum):
    SMALL = "small"


@dataclass
class Window:
    start: datetime
    minutes: int = 5


async def test_parameters_come_in_the_types_that_the_function_declares(offer: Offer) -> None:
    seen: list[object] = []

    @action_function
    def plan(
        day: date, size: Size, window: Window, tags: frozenset[str], ratio: float, *, note: str = ""
    ) -> JsonObject:
        seen.extend((day, size, window, tags, ratio, note))
        return {}

    offer(plan)
    types = {
        "day": "string",
        "size": "string",
        "window": "object",
        "tags": "array",
        "ratio": "number",
        "note": {"type": "string", "description": "A note.", "required": False},
    }
    result = await run(
        rig_for("plan", parameters=types),
        day="2026-01-05",
        size="small",
        window={"start": "2026-01-05T09:00:00Z"},
        tags=["a", "a"],
        ratio=2,
    )
    assert result.status == "success"
    moment = datetime(2026, 1, 5, 9, tzinfo=UTC)
    assert seen == [date(2026, 1, 5), Size.SMALL, Window(moment), frozenset({"a"}), 2.0, ""]


@pytest.mark.parametrize(
    ("value", "complaint"),
    [("5", "count: Input should be a valid integer"), (5.5, "count"), (True, "count")],
)
async def test_a_parameter_of_another_type_is_refused_before_the_function_is_called(
    offer: Offer, value: Any, complaint: str
) -> None:
    called: list[int] = []

    @action_function
    def add(count: int) -> JsonObject:
        called.append(count)
        return {}

    offer(add)
    kind = {str: "string", float: "number", bool: "boolean"}[type(value)]
    result = await run(rig_for("add", effect="effect", parameters={"count": kind}), count=value)
    assert ending(result) == ("failed", "invalid_parameters", False)
    assert result.failure is not None
    assert complaint in result.failure.reason
    assert called == []


async def test_a_function_that_takes_anything_gets_everything(offer: Offer) -> None:
    @action_function
    def take(first: int, **others: Any) -> JsonObject:
        return {"first": first, "others": others}

    offer(take)
    rig = rig_for("take", parameters={"first": "integer", "second": "array"})
    assert (await run(rig, first=1, second=[1])).output == {"first": 1, "others": {"second": [1]}}


def test_an_annotation_that_json_cannot_be_read_as_is_found_at_start_up(offer: Offer) -> None:
    @action_function
    def lock(thing: threading.Event) -> JsonObject:
        return {}

    offer(lock)
    with pytest.raises(ValidationError, match="an annotation cannot be used"):
        PythonSettings.model_validate(
            {"function": f"{MODULE}:lock"}, context={"parameters": ("thing",)}
        )


async def test_a_sync_function_can_ask_whether_anybody_still_waits(offer: Offer) -> None:
    started, ended = threading.Event(), threading.Event()

    @action_function
    def work() -> JsonObject:
        started.set()
        while not is_cancelled():
            time.sleep(0.01)
        ended.set()
        return {}

    offer(work)
    rig = rig_for("work")
    assignment = await rig.approved()
    async with rig.hosted(python.call) as handler:
        task = asyncio.create_task(assignment.run(handler))
        await eventually(started.is_set, "the function runs")
        assert not ended.is_set()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await eventually(ended.is_set, "the function has noticed")


def test_a_function_outside_of_a_step_is_not_cancelled() -> None:
    assert not is_cancelled()
