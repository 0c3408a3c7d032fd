"""The window of a partition: how much may be beyond the committed offset."""

import pytest

from agents.runtime.records import Record
from agents.runtime.window import PartitionWindow


def records(first: int, count: int, value: bytes = b"") -> list[Record]:
    return [Record("t", 0, offset, 0, None, value) for offset in range(first, first + count)]


@pytest.fixture
def window() -> PartitionWindow:
    return PartitionWindow(("t", 0), 1, limit=100, backlog_bytes=10_000)


def test_no_more_records_than_the_window_are_handed_over(window: PartitionWindow) -> None:
    window.add(records(0, 250))
    assert [each.offset for each in window.hand_over()] == list(range(100))
    assert window.hand_over() == []
    assert window.blocked


def test_finished_records_keep_their_permits_until_a_commit_is_confirmed(
    window: PartitionWindow,
) -> None:
    window.add(records(0, 250))
    window.hand_over()
    window.finished = 60
    assert window.commit_requested() == 60
    assert window.hand_over() == []
    window.committed(60)
    assert [each.offset for each in window.hand_over()] == list(range(100, 160))


def test_permits_come_back_for_whole_spans_that_a_commit_covers(window: PartitionWindow) -> None:
    window.add(records(0, 100))
    window.hand_over()
    window.committed(11)
    assert window.uncommitted == 100
    window.committed(12)
    assert window.uncommitted == 88


def test_gaps_between_offsets_do_not_lose_permits(window: PartitionWindow) -> None:
    window.add([Record("t", 0, offset, 0, None, None) for offset in range(0, 1000, 10)])
    window.hand_over()
    window.committed(991)
    assert window.uncommitted == 0


def test_a_failed_commit_is_due_again(window: PartitionWindow) -> None:
    window.add(records(0, 10))
    window.hand_over()
    assert not window.dirty
    window.finished = 10
    assert window.dirty
    window.commit_requested()
    assert not window.dirty
    window.commit_failed()
    assert window.dirty


def test_a_commit_is_urgent_when_half_the_permits_are_out_and_it_would_help(
    window: PartitionWindow,
) -> None:
    window.add(records(0, 50))
    window.hand_over()
    assert not window.crowded
    window.finished = 1
    assert window.crowded


def test_fetching_pauses_by_number_and_goes_on_when_one_window_waits(
    window: PartitionWindow,
) -> None:
    window.add(records(0, 100))
    window.hand_over()
    window.add(records(100, 399))
    assert not window.overfull
    window.add(records(499, 1))
    assert window.overfull
    assert not window.drained
    for start in (100, 200, 300):
        window.committed(start)
        window.hand_over()
    assert window.drained


def test_fetching_pauses_by_bytes(window: PartitionWindow) -> None:
    window.add(records(0, 100))
    window.hand_over()
    window.add(records(100, 10, value=b"x" * 1000))
    assert window.overfull
    window.committed(100)
    window.hand_over()
    assert window.drained
    assert not window.overfull
