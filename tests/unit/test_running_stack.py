"""``stack.json``: found while its stack runs, ignored afterwards."""

from pathlib import Path

import pytest

from ops.running import Part, RunningStack, read_stack, without_credentials


def record(state: Path) -> RunningStack:
    return RunningStack.of_this_process(
        state, {"MILLSTREAM_LANE": "canary."}, (Part(name="broker", address="127.0.0.1:1"),)
    )


def test_a_running_stack_is_found(tmp_path: Path) -> None:
    record(tmp_path).publish()
    assert read_stack(tmp_path) == record(tmp_path)


def test_only_its_user_may_read_the_passwords(tmp_path: Path) -> None:
    record(tmp_path).publish()
    assert (tmp_path / "stack.json").stat().st_mode & 0o777 == 0o600


def test_a_stack_that_was_killed_is_not_found(tmp_path: Path) -> None:
    # The same process id, given to another process since.
    record(tmp_path).model_copy(update={"created": 1.0}).publish()
    assert read_stack(tmp_path) is None


@pytest.mark.parametrize("content", ["", "{", "[]", '{"pid": 1}'])
def test_a_file_of_another_kind_is_no_stack(tmp_path: Path, content: str) -> None:
    (tmp_path / "stack.json").write_text(content)
    assert read_stack(tmp_path) is None


def test_a_stack_takes_away_its_own_file_only(tmp_path: Path) -> None:
    mine = record(tmp_path)
    mine.publish()
    mine.model_copy(update={"pid": 1}).withdraw()
    assert read_stack(tmp_path) is not None
    mine.withdraw()
    assert read_stack(tmp_path) is None


def test_an_address_is_shown_without_its_password() -> None:
    assert without_credentials("postgresql://me:secret@db:6432/x?sslmode=require") == "db:6432/x"
    assert without_credentials("postgresql:///x") == "localhost:5432/x"
