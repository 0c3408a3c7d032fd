"""Reading declaration files: every problem, each with its place and what was expected."""

from datetime import timedelta
from pathlib import Path
from typing import Annotated, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field

from agents.runtime.declarations import (
    Declaration,
    DeclarationError,
    Document,
    Duration,
    Matching,
    Size,
    format_duration,
    format_size,
    parse_duration,
    parse_size,
)
from agents.runtime.declarations.source import read_yaml
from agents.runtime.errors import ConfigurationError


class Tree(Declaration):
    """A tree in an orchard."""

    kind: Literal["apple", "pear"]
    """Which fruit it bears"""
    age: Annotated[Duration, Field(gt=timedelta(0))] = timedelta(days=1)
    weight: Size = 0
    branches: tuple[str, ...] = ()
    rooted: bool = True
    height: Annotated[int, Field(ge=1)] = 1


class Orchard(Declaration):
    """A file."""

    trees: dict[Annotated[str, Matching(r"[a-z]+", "a word in lower case")], Tree]
    owner: str | None = None


def problems_of(tmp_path: Path, text: str) -> list[str]:
    file = tmp_path / "orchard.yaml"
    file.write_text(text, encoding="utf-8")
    document = Document(file, Orchard)
    document.sound()
    return [str(problem).removeprefix(f"{tmp_path}/") for problem in document.problems]


def test_a_sound_file_becomes_its_model(tmp_path: Path) -> None:
    file = tmp_path / "orchard.yaml"
    file.write_text(
        "trees:\n  old: {kind: pear, age: 1h30m, weight: 3MB, branches: [a, b]}\nowner: Ann\n",
        encoding="utf-8",
    )
    document = Document(file, Orchard)
    orchard = document.close(document.sound())
    assert orchard.trees["old"] == Tree(
        kind="pear", age=timedelta(minutes=90), weight=3_000_000, branches=("a", "b")
    )


def test_all_problems_of_a_file_are_found_at_once_in_the_order_of_its_lines(tmp_path: Path) -> None:
    text = """\
trees:
  one:
    kind: aple
    height: "3"
  Two: {kind: pear}
  three:
    kynd: pear
    rooted: yes please
    branches: all
  four: [1]
  five: {kind: pear, age: 5 minutes, weight: 3, height: 0}
extra: 1
"""
    assert problems_of(tmp_path, text) == [
        (
            "orchard.yaml:3: at trees.one.kind: 'aple' is not allowed; "
            "expected 'apple' or 'pear' (did you mean 'apple'?)"
        ),
        "orchard.yaml:4: at trees.one.height: text ('3') stands here; expected a whole number",
        "orchard.yaml:5: at trees.Two: 'Two' is not allowed; expected a word in lower case",
        "orchard.yaml:6: at trees.three.kind: it is missing; expected which fruit it bears",
        (
            "orchard.yaml:7: at trees.three.kynd: unknown field; expected one of "
            "kind, age, weight, branches, rooted, height (did you mean 'kind'?)"
        ),
        (
            "orchard.yaml:8: at trees.three.rooted: text ('yes please') stands here; "
            "expected true or false"
        ),
        "orchard.yaml:9: at trees.three.branches: text ('all') stands here; expected a list",
        "orchard.yaml:10: at trees.four: a list stands here; expected a mapping",
        (
            "orchard.yaml:11: at trees.five.age: '5 minutes' is no duration; "
            "expected a duration such as 500ms, 30s, 5m, 1h30m or 7d"
        ),
        (
            "orchard.yaml:11: at trees.five.weight: 3 is no size; "
            "expected a size such as 64KB, 3MB or 1GiB"
        ),
        (
            "orchard.yaml:11: at trees.five.height: 0 is not allowed; "
            "expected a value greater than or equal to 1"
        ),
        "orchard.yaml:12: at extra: unknown field; expected one of trees, owner",
    ]


class Bench(Declaration):
    """Something made of wood."""

    made: Literal["bench"]
    seats: int


class Table(Declaration):
    """Something else made of wood."""

    made: Literal["table"]


class Workshop(Declaration):
    """A file whose entries are of several kinds."""

    things: dict[str, Annotated[Bench | Table, Field(discriminator="made")]]


def test_a_mistake_in_one_of_several_kinds_is_explained_for_that_kind(tmp_path: Path) -> None:
    file = tmp_path / "workshop.yaml"
    file.write_text(
        "things:\n  a: {made: tabel}\n  b: {made: bench, seats: two}\n  c: {made: bench}\n",
        encoding="utf-8",
    )
    document = Document(file, Workshop)
    document.sound()
    assert [str(problem).removeprefix(f"{tmp_path}/") for problem in document.problems] == [
        (
            "workshop.yaml:2: at things.a: 'made' 'tabel' is not allowed; "
            "expected 'bench', 'table' (did you mean 'table'?)"
        ),
        "workshop.yaml:3: at things.b.seats: text ('two') stands here; expected a whole number",
        "workshop.yaml:4: at things.c.seats: it is missing; expected seats",
    ]


def test_entries_without_problems_are_still_read(tmp_path: Path) -> None:
    file = tmp_path / "orchard.yaml"
    file.write_text("trees:\n  good: {kind: pear}\n  bad: {kind: plum}\n", encoding="utf-8")
    document = Document(file, Orchard)
    sound = document.sound()
    assert sound is not None
    assert list(sound.trees) == ["good"]
    assert document.keys("trees") == ("good", "bad")
    with pytest.raises(DeclarationError):
        document.close(sound)


def test_a_key_that_stands_twice_is_named_with_its_first_line(tmp_path: Path) -> None:
    text = "trees:\n  one:\n    kind: pear\n    kind: apple\n"
    assert problems_of(tmp_path, text) == [
        (
            "orchard.yaml:4: at trees.one.kind: the key stands twice, first on line 3; "
            "expected each key once"
        )
    ]


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ("\ntrees: [1\n", 3, "while parsing a flow sequence (from line 2)"),
        ("trees:\n\tone: 1\n", 2, "this is no YAML"),
        ("trees: *nowhere\n", 1, "undefined alias"),
        ("trees: {}\n---\ntrees: {}\n", 2, "another document"),
        ("trees:\n  one: \x07\n", 2, "the character U+0007 is not allowed"),
        ("", 1, "the file is empty; expected a mapping with trees, owner"),
        ("# only a comment\n", 1, "the file is empty"),
        ("trees:\n  one: !secret x\n", 2, "the tag !secret has no meaning here"),
        ("trees:\n  one: {height: .inf}\n", 2, ".inf is not finite"),
        ("trees:\n  ? [a]\n  : 1\n", 2, "a key is a mapping or a list"),
        ("trees: &loop\n  one: *loop\n", 1, "an alias contains itself"),
        ("- 1\n", 1, "at the file: a list stands here; expected a mapping"),
        ("trees:\n", 1, "at trees: nothing stands here; expected a mapping"),
    ],
)
def test_a_malformed_text_is_explained_with_its_line(
    tmp_path: Path, text: str, line: int, said: str
) -> None:
    first = problems_of(tmp_path, text)[0]
    assert first.startswith(f"orchard.yaml:{line}: at ")
    assert said in first


def test_a_file_that_is_missing_or_no_text_is_one_problem(tmp_path: Path) -> None:
    missing = Document(tmp_path / "none.yaml", Orchard)
    assert missing.sound() is None
    with pytest.raises(ConfigurationError, match=r"none\.yaml:1: .*No such file"):
        missing.close(None)
    (tmp_path / "binary.yaml").write_bytes(b"trees: \xff\xfe")
    binary = Document(tmp_path / "binary.yaml", Orchard)
    assert "byte 7 is not UTF-8" in str(binary.problems[0])


def test_what_an_alias_repeats_is_reported_once(tmp_path: Path) -> None:
    text = "trees:\n  one: &tree\n    kind: pear\n    kynd: x\n  two: *tree\n  three: *tree\n"
    assert len(problems_of(tmp_path, text)) == 1


def test_two_entries_on_one_line_with_the_same_mistake_are_two_problems(tmp_path: Path) -> None:
    assert len(problems_of(tmp_path, "trees: {a: {kind: plum}, b: {kind: plum}}\n")) == 2


def test_numbers_are_read_as_yaml_1_2_means_them() -> None:
    text = "[0x1F, 0o17, 1_000, -3, +4, 010, 1e3, 2.5, yes, on, ~, true, 2026-01-02]"
    assert read_yaml(text).value == [
        *(31, 15, 1000, -3, 4, 10, 1000.0, 2.5),
        *("yes", "on", None, True, "2026-01-02"),
    ]


@given(st.text(max_size=200))
def test_no_text_whatever_makes_the_reader_fail(text: str) -> None:
    source = read_yaml(text)
    lines = text.count("\n") + text.count("\r") + text.count("\x85") + 3
    assert all(1 <= finding.place.line <= lines for finding in source.findings)


@pytest.mark.parametrize(
    ("text", "duration"),
    [
        ("0s", timedelta()),
        ("500ms", timedelta(milliseconds=500)),
        ("5m", timedelta(minutes=5)),
        ("1h30m", timedelta(minutes=90)),
        ("7d", timedelta(days=7)),
    ],
)
def test_a_duration_is_written_with_its_units(text: str, duration: timedelta) -> None:
    assert parse_duration(text) == duration
    assert format_duration(duration) == text


@pytest.mark.parametrize("text", ["", "7", "7 d", "d", "-1s", "1.5h", "1w", "٣s", "99999999999d"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="expected a duration"):
        parse_duration(text)


@given(st.integers(min_value=0, max_value=10**12))
def test_a_duration_survives_being_written_and_read(milliseconds: int) -> None:
    duration = timedelta(milliseconds=milliseconds)
    assert parse_duration(format_duration(duration)) == duration


@pytest.mark.parametrize(
    ("text", "size"), [("3MB", 3_000_000), ("4MiB", 4_194_304), ("64KB", 64_000), ("7B", 7)]
)
def test_a_size_is_written_with_its_unit(text: str, size: int) -> None:
    assert parse_size(text) == size
    assert format_size(size) == text


@pytest.mark.parametrize("text", ["", "3", "MB", "3mb", "1.5MB", "-1B"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="expected a size"):
        parse_size(text)


@given(st.integers(min_value=0, max_value=2**50))
def test_a_size_survives_being_written_and_read(size: int) -> None:
    assert parse_size(format_size(size)) == size
