"""What a request says not to do: set aside, never acted on, and held against what it asks for."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from agents.parsing import questions
from agents.parsing.clauses import OPENING, Chunk, head_of
from agents.parsing.mentions import Mention
from agents.parsing.questions import UnclearError
from agents.runtime.catalogue import ActionSpec, Catalogue
from schemas import IntendedAction

Reach = Literal["", "deed", "order"]
"""What a negation so far still covers: nothing, a deed in "-ing", or a whole order."""


@dataclass(frozen=True, slots=True)
class Cut:
    """A chunk without what it negates."""

    kept: Chunk
    negated: tuple[Mention, ...] = ()
    reach: Reach = ""
    """What the negation may cover beyond this chunk."""


def without_negated(chunk: Chunk, reach: Reach) -> Cut:
    """Take from a chunk what is not to be done.

    Two forms are understood: "without restarting …" (up to the next order), and "do not restart …"
    at the opening of a chunk (the whole chunk).

    Args:
        chunk: What is said.
        reach: How far the negation of the chunk before it may reach.

    Raises:
        UnclearError: The negation has another form, or it is open how far it reaches.
    """
    if reach == "order" and chunk.joiner != "but" and chunk.mentions:
        # "Do not restart checkout and tell #ops": does "not" hold for both?
        raise UnclearError(questions.NEGATED)
    if reach == "deed" and head_of(chunk.mentions) is None:
        # "without restarting payments *and search*"
        return _averted((), chunk)
    for at, mention in enumerate(chunk.mentions):
        if "avert" in mention.roles:
            return _averted(chunk.mentions[:at], chunk, at + 1)
        if "negation" in mention.roles:
            return _negated(chunk, at)
    return Cut(chunk)


def _averted(kept: tuple[Mention, ...], chunk: Chunk, start: int = 0) -> Cut:
    rest = chunk.mentions[start:]
    if start and not (rest and rest[0].is_phrase and rest[0].form == "ing"):
        raise UnclearError(questions.NEGATED)
    if unknown := [mention.text for mention in rest if mention.unknown]:
        # "without restarting payments *at noon*": that may be said of the order itself.
        raise questions.not_understood(unknown)
    return Cut(replace(chunk, mentions=kept), rest, "deed")


def _negated(chunk: Chunk, at: int) -> Cut:
    rest = chunk.mentions[at + 1 :]
    opens = all(mention.roles & OPENING for mention in chunk.mentions[:at])
    # Without a deed or a thing ("no, wait"), it may take back everything.
    if not opens or not any(mention.is_phrase or mention.slot for mention in rest):
        raise UnclearError(questions.NEGATED)
    return Cut(replace(chunk, mentions=()), rest, "order")


def refuse_contradictions(
    actions: Iterable[IntendedAction], negated: Iterable[Sequence[Mention]], catalogue: Catalogue
) -> None:
    """Refuse a request that asks for an action and says not to do it.

    Both may stand together where they are plainly about different things: "restart checkout
    without restarting payments".

    Raises:
        UnclearError: An action may be what was negated.
    """
    for mentions in negated:
        for action in actions:
            if _may_mean(mentions, action, catalogue.action(action.action)):
                raise UnclearError(questions.CONTRADICTION)


def _may_mean(negated: Sequence[Mention], action: IntendedAction, spec: ActionSpec) -> bool:
    phrases = [mention for mention in negated if mention.is_phrase]
    if phrases and not any(mention.supports(action.action) for mention in phrases):
        return False
    for name, parameter in spec.parameters.items():
        if parameter.entity is None:
            continue
        named = {mention.value for mention in negated if mention.slot == parameter.entity}
        if named and action.parameters.get(name) not in named:
            return False
    return True
