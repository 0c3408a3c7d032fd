"""Mentions cut into sentences and chunks, and the orders that chunks make up.

A sentence is cut at "and", "then", "but" and commas into chunks. A chunk that begins with a phrase
in its base form ("restart", after a polite opening at most) starts an order; its head is that
phrase.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

from agents.parsing.mentions import Mention
from agents.parsing.words import WordRole

Joiner = Literal["", "comma", "and", "but", "then", "done"]
"""What stands before a chunk; nothing at the start of a sentence."""

_JOINERS: Final[tuple[Joiner, ...]] = ("comma", "and", "but", "then", "done")
"""Weakest first: of several in a row the strongest holds."""
_ARTICLES: Final = frozenset({"a", "an", "the"})
OPENING: Final[frozenset[WordRole]] = frozenset({"request", "courtesy", "filler"})
"""What may stand before anything without changing what it means."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """The mentions between two joiners."""

    joiner: Joiner
    mentions: tuple[Mention, ...]


@dataclass(slots=True)
class Order:
    """One action that is asked for, before it is known which and with what."""

    head: Mention | None
    """The phrase that opens it; ``None`` for a question, which can only ask to read."""
    chunks: list[Chunk] = field(default_factory=list)
    asides: list[Mention] = field(default_factory=list)
    """What its sentence named ahead of it: "*in staging*, restart checkout"."""
    is_question: bool = False
    embedded: bool = False
    """Whether a message is to carry the answer ("tell #ops *what version checkout runs*")."""
    is_coordinated: bool = False
    """Whether "and" or "then" joins it to another order."""

    @property
    def light_verb(self) -> Mention | None:
        """The verb that only carries the head: "*do* a restart"."""
        if self.head is None:
            return None
        mentions = self.chunks[0].mentions
        at = mentions.index(self.head)
        carries = at > 1 and _is_determiner(mentions, at - 1)
        return mentions[at - 2] if carries and "light" in mentions[at - 2].roles else None

    @property
    def mentions(self) -> Iterator[Mention]:
        """Everything that was said with it."""
        return (mention for chunk in self.chunks for mention in chunk.mentions)


def sentences(mentions: Iterable[Mention]) -> Iterator[tuple[list[Mention], bool]]:
    """The mentions of each sentence, and whether a question mark ends it."""
    current: list[Mention] = []
    for mention in mentions:
        if mention.mark in ("stop", "question"):
            if current:
                yield current, mention.mark == "question"
            current = []
        else:
            current.append(mention)
    if current:
        yield current, False


def chunks(sentence: Iterable[Mention]) -> Iterator[Chunk]:
    """What stands between the joiners of a sentence; an empty chunk for a joiner at its end."""
    joiner: Joiner = ""
    current: list[Mention] = []
    for mention in sentence:
        found = _joiner(mention)
        if found is None:
            current.append(mention)
        elif current:
            yield Chunk(joiner, tuple(current))
            current, joiner = [], found
        elif not joiner or _JOINERS.index(found) > _JOINERS.index(joiner):
            joiner = found
    if current or joiner:
        yield Chunk(joiner, tuple(current))


def head_of(mentions: Sequence[Mention]) -> Mention | None:
    """The phrase that gives the order, where the chunk opens with one.

    Before it may stand politeness, a place or a thing with its preposition ("in staging"), and a
    light verb with its article ("do a restart").
    """
    at = 0
    while at < len(mentions):
        mention = mentions[at]
        if mention.is_phrase:
            return mention if mention.form == "base" else None
        if mention.roles & OPENING:
            at += 1
        elif mention.roles & {"preposition", "origin"}:
            at = _after_object(mentions, at + 1)
        elif "light" in mention.roles and _is_determiner(mentions, at + 1):
            at += 2
        else:
            return None
    return None


def is_noun(head: Mention, mentions: Sequence[Mention]) -> bool:
    """Whether a phrase names a deed rather than orders it: "restart of checkout"."""
    at = mentions.index(head)
    has_article = not _ARTICLES.isdisjoint(head.text.lower().split())
    is_carried = has_article or (at > 0 and _is_determiner(mentions, at - 1))
    follows = mentions[at + 1].text.lower() if at + 1 < len(mentions) else ""
    return follows == "of" and not is_carried


def _joiner(mention: Mention) -> Joiner | None:
    if mention.mark in ("comma", "colon"):
        return "comma"
    return next((role for role in _JOINERS if role in mention.roles), None)


def _after_object(mentions: Sequence[Mention], at: int) -> int:
    """The position after "the checkout service", which starts at ``at``; the end if none does."""
    while at < len(mentions) and mentions[at].roles & {"determiner", "filler"}:
        at += 1
    return at + 1 if at < len(mentions) and mentions[at].slot else len(mentions)


def _is_determiner(mentions: Sequence[Mention], at: int) -> bool:
    return at < len(mentions) and "determiner" in mentions[at].roles
