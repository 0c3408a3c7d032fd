"""One policy: its rule in Cedar, and what people are told when it speaks."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from agents.policies.annotations import PLACEHOLDER, mistakes_in, obligation_in
from agents.policies.cedar import CedarError, ParsedPolicy, PolicyEffect, Schema, parse_policy
from agents.runtime.declarations import Problem
from schemas import Obligation

_TOKEN: Final = re.compile(r'"(?:\\.|[^"\\])*"|//[^\n]*|;', re.DOTALL)
_BLANK: Final = re.compile(r"(?:\s+|//[^\n]*)*")
_EXPECTED: Final = "a policy that the schema allows (`millstream policies schema`)"


@dataclass(frozen=True)
class Policy:
    """A policy that is sound."""

    parsed: ParsedPolicy
    file: str
    line: int
    """Where it begins, counted from 1."""
    obligation: Obligation | None
    """What lifts it; ``None`` where nothing does."""

    @property
    def id(self) -> str:
        """Its name in verdicts."""
        return self.parsed.annotations["id"]

    @property
    def effect(self) -> PolicyEffect:
        """Whether it permits or forbids."""
        return self.parsed.effect

    @property
    def says_how_long(self) -> bool:
        """Whether it says itself how long approval is waited for."""
        return "approvals_expire" in self.parsed.annotations

    def says(self, values: Mapping[str, str]) -> str:
        """Its reason and its remedy about one step.

        Args:
            values: By placeholder, what stands in its place.
        """
        annotations = self.parsed.annotations
        texts = (annotations.get("reason"), annotations.get("remedy"))
        return PLACEHOLDER.sub(lambda found: values[found[1]], " ".join(filter(None, texts)))


@dataclass(frozen=True, slots=True)
class Passage:
    """The text of one policy, and where it stands."""

    file: str
    line: int
    text: str

    def problem(self, wrong: str, expected: str = _EXPECTED, *, at: str = "") -> Problem:
        """A problem of this policy; ``at`` is its id where it has one."""
        return Problem(self.file, self.line, at or "the policy", wrong, expected)


def passages_of(file: str, text: str) -> Iterator[Passage]:
    """The policies of a file, each up to its semicolon."""
    start = 0
    ends = [found.end() for found in _TOKEN.finditer(text) if found.group() == ";"]
    for end in (*ends, len(text)):
        blank = _BLANK.match(text, start, end)
        first = blank.end() if blank is not None else start
        if first < end:
            yield Passage(file, text.count("\n", 0, first) + 1, text[first:end])
        start = end


def read_policy(passage: Passage, schema: Schema) -> Policy | list[Problem]:
    """The policy of ``passage``, or all that is wrong with it."""
    try:
        parsed = parse_policy(passage.text)
    except CedarError as error:
        return [passage.problem(f"it cannot be read: {error}")]
    at = parsed.annotations.get("id", "")
    problems = [passage.problem(wrong, at=at) for wrong in schema.problems_of(passage.text)]
    problems += [
        passage.problem(*mistake, at=at)
        for mistake in mistakes_in(parsed.annotations, parsed.effect)
    ]
    if problems:
        return problems
    return Policy(parsed, passage.file, passage.line, obligation_in(parsed.annotations))
