from typing import Any

import pytest

from agents.runtime.errors import InvalidMessageError
from agents.runtime.intake import read_request
from agents.runtime.nesting import MAX_DEPTH, is_too_deep
from agents.runtime.outcomes import UnusableAnswerError, check_output
from agents.runtime.records import Record


def deep(depth: int) -> dict[str, Any]:
    value: Any = 1
    for _ in range(depth):
        value = {"v": value}
    assert isinstance(value, dict)
    return value


def test_depth_is_counted_in_objects_and_arrays() -> None:
    assert not is_too_deep(deep(MAX_DEPTH))
    assert is_too_deep(deep(MAX_DEPTH + 1))
    assert is_too_deep({"wide": 1, "deep": [[deep(MAX_DEPTH)]]})
    assert not is_too_deep("text")


def test_an_output_that_would_be_unreadable_further_on_is_no_output() -> None:
    check_output(deep(MAX_DEPTH))
    with pytest.raises(UnusableAnswerError, match="nests deeper"):
        check_output(deep(MAX_DEPTH + 1))


def test_a_request_that_would_be_unreadable_further_on_is_no_request() -> None:
    value = b'{"text": "x", "context": ' + b'{"v": ' * 70 + b"1" + b"}" * 70 + b"}"
    with pytest.raises(InvalidMessageError, match="nests deeper"):
        read_request(Record("t", 0, 0, 0, None, value), lane="")


def test_times_that_no_calendar_has_are_moved_to_its_edge() -> None:
    assert Record("t", 0, 0, 10**18, None, None).time.year == 9999
    assert Record("t", 0, 0, -5, None, None).time.year == 1970
