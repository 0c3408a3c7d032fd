"""All policies that are in force: read from a folder, checked as a whole, compiled once."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from zoneinfo import ZoneInfo

from agents.policies.cedar import Answer, Engine, Question, Schema
from agents.policies.interest import Interest
from agents.policies.policy import Policy, passages_of, read_policy
from agents.runtime.declarations import DeclarationError, Problem

SUFFIX: Final = ".cedar"
NO_PERMIT: Final = "no-permit"
"""What speaks in place of a policy where none permits a step."""


@dataclass(frozen=True, slots=True)
class SourceFile:
    """A file of policies."""

    name: str
    """As it leads every problem."""
    text: str


@dataclass(frozen=True, slots=True)
class Finding:
    """What the policies say to one question."""

    spoke: tuple[Policy, ...]
    """The policies that decided."""
    is_permitted: bool
    """Whether some policy permits it, were it not for those that forbid it."""
    errors: tuple[str, ...] = ()
    """Why it could not be decided; then nothing else counts."""


class PolicySet:
    """Sound policies, ready to be asked.

    Args:
        policies: All of them.
        schema: The one that they were checked against.
        zone: Where it is the time that they see.
        digest: SHA-256 of all that.
    """

    def __init__(
        self, policies: Sequence[Policy], schema: Schema, zone: ZoneInfo, digest: str
    ) -> None:
        self.zone = zone
        self.policies: Mapping[str, Policy] = {policy.id: policy for policy in policies}
        self.digest = digest
        bodies = {policy.id: policy.parsed.body for policy in policies}
        self.interest = Interest(bodies.values())
        lifted = {policy.id for policy in policies if policy.obligation is not None}
        self._all = Engine(bodies, schema)
        self._without_liftable = Engine(
            {each: body for each, body in bodies.items() if each not in lifted}, schema
        )

    def ask(self, question: Question) -> Finding:
        """What the policies say.

        Cedar names what decided: where something forbids, it does not say whether anything
        permits. Only where every policy that forbids can be lifted does that matter.
        """
        answer = self._all.ask(question)
        spoke = self._named(answer)
        if answer.errors or answer.allowed:
            return Finding(spoke, answer.allowed, answer.errors)
        if not spoke or any(policy.obligation is None for policy in spoke):
            return Finding(spoke, is_permitted=False)
        lifted = self._without_liftable.ask(question)
        return Finding((*spoke, *self._named(lifted)), lifted.allowed, lifted.errors)

    def _named(self, answer: Answer) -> tuple[Policy, ...]:
        return tuple(self.policies[policy_id] for policy_id in answer.policies)


def read_sources(folder: Path) -> tuple[SourceFile, ...]:
    """The policy files of ``folder``, in the order of their names.

    Raises:
        DeclarationError: There is none, or one cannot be read.
    """
    problems: list[Problem] = []
    sources: list[SourceFile] = []
    try:
        files = sorted(file for file in folder.iterdir() if file.suffix == SUFFIX)
    except OSError as error:
        raise _unreadable(folder, error.strerror or "an error", "a folder of policies") from None
    for file in files:
        try:
            sources.append(SourceFile(str(file), file.read_text(encoding="utf-8")))
        except (OSError, UnicodeDecodeError) as error:
            problems += _unreadable(file, str(error), "Cedar policies in UTF-8").problems
    if problems:
        raise DeclarationError(problems)
    if not files:
        raise _unreadable(folder, "it holds no policies", f"files that end in {SUFFIX}")
    return tuple(sources)


def digest_of(sources: Sequence[SourceFile], schema: Schema, zone: ZoneInfo) -> str:
    """What tells one set of policies from another, wherever its files lie."""
    whole = hashlib.sha256(f"{zone.key}\0{schema.text}".encode())
    for source in sources:
        text = source.text.encode()
        whole.update(f"\0{Path(source.name).name}\0{len(text)}\0".encode())
        whole.update(text)
    return whole.hexdigest()


def compile_policies(sources: Sequence[SourceFile], schema: Schema, zone: ZoneInfo) -> PolicySet:
    """The policies of ``sources``.

    Raises:
        DeclarationError: Some are not sound; all problems are named, with their lines.
    """
    problems: list[Problem] = []
    policies: dict[str, Policy] = {}
    for source in sources:
        for passage in passages_of(source.name, source.text):
            read = read_policy(passage, schema)
            if isinstance(read, list):
                problems += read
            elif (other := policies.get(read.id)) is not None or read.id == NO_PERMIT:
                place = f"{other.file}:{other.line}" if other is not None else "Millstream itself"
                problems.append(
                    passage.problem(f"its @id is that of {place}", "an @id of its own", at=read.id)
                )
            else:
                policies[read.id] = read
    if not problems and not policies:
        files = ", ".join(source.name for source in sources)
        problems.append(Problem(files, 1, "the file", "it holds no policies", "policies"))
    if problems:
        raise DeclarationError(problems)
    return PolicySet(list(policies.values()), schema, zone, digest_of(sources, schema, zone))


def load_policies(folder: Path, schema: Schema, zone: ZoneInfo) -> PolicySet:
    """The policies of a folder.

    Raises:
        DeclarationError: As :func:`read_sources` and :func:`compile_policies`.
    """
    return compile_policies(read_sources(folder), schema, zone)


def _unreadable(path: Path, wrong: str, expected: str) -> DeclarationError:
    return DeclarationError(
        [Problem(str(path), 1, "the policies", f"it cannot be read ({wrong})", expected)]
    )
