"""Tokens as mentions: each piece of the text with what it means."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from pydantic import JsonValue
from rapidfuzz import fuzz, process

from agents.parsing.lexicon import Entry, Form, Lexicon, Name
from agents.parsing.tokens import Token
from agents.parsing.words import NUMBERS, WordRole

_SIMILAR: Final = 84
"""The least similarity, in percent, at which a word passes for a misspelt name."""
_SHORTEST: Final = 5
_LENGTHS_DIFFER: Final = 2
_GAP: Final = 6
"""How many words may stand between a verb and its particle."""
_SLOTS: Final = {"word": "number"}
"""The hint that a token's kind stands for, where it has another name: a number may be a word."""
_FUZZY_WORDS: Final = 20
"""Past so many unknown words the text is not understood anyway; this bounds the work."""


@dataclass(frozen=True, slots=True)
class Mention:
    """A piece of the text and what it means. Exactly one of the groups of fields is set."""

    text: str
    """As the request writes it."""
    start: int
    end: int
    roles: frozenset[WordRole] = frozenset()
    """What the words do, where they are from the closed lists."""
    slot: str = ""
    """The kind of thing or value: a kind of entity, or a hint of ``from_text``."""
    value: JsonValue = None
    similarity: float = 1.0
    """1 for a name as it is spelt, less for one that is misspelt."""
    weights: tuple[tuple[str, float], ...] = ()
    """How much a phrase speaks for actions."""
    form: Form = "base"
    mark: str = ""
    """The kind of a break: comma, colon, stop or question."""
    unknown: bool = False

    @property
    def is_phrase(self) -> bool:
        """Whether it is words of an action, in any form."""
        return bool(self.weights)

    def supports(self, action: str) -> bool:
        """Whether it is a phrase that speaks for ``action``."""
        return any(name == action and weight > 0 for name, weight in self.weights)


def annotate(text: str, tokens: Sequence[Token], lexicon: Lexicon) -> list[Mention]:
    """What the tokens mean: names by the longest match, then by similarity; values by form."""
    reader = _Reader(text, tokens, lexicon)
    return reader.read()


class _Reader:
    def __init__(self, text: str, tokens: Sequence[Token], lexicon: Lexicon) -> None:
        self._text = text
        self._tokens = tokens
        self._lexicon = lexicon
        # Only words can be part of an entry; anything else ends a match.
        self._words = [_key(token) for token in tokens]
        self._taken: set[int] = set()
        self._fuzzy_left = _FUZZY_WORDS

    def read(self) -> list[Mention]:
        mentions: list[Mention] = []
        position = 0
        while position < len(self._tokens):
            if position in self._taken:
                position += 1
                continue
            length, mention = self._mention_at(position)
            mentions.append(_as_version(mention, mentions))
            position += length
        return mentions

    def _mention_at(self, at: int) -> tuple[int, Mention]:
        parted = self._parted_phrase(at)
        if parted is not None:
            return 1, parted
        match = self._lexicon.longest(self._words, at)
        if match is not None:
            length, entry = match
            return length, self._known(at, length, entry)
        return 1, self._single(at)

    def _known(self, at: int, length: int, entry: Entry) -> Mention:
        base = self._base(at, length)
        if len(entry.names) == 1:
            return replace(base, slot=entry.names[0].kind, value=entry.names[0].name)
        if entry.names:
            # One word for things of several kinds: nobody can tell which is meant.
            return replace(base, unknown=True)
        if entry.weights:
            return replace(base, weights=tuple(entry.weights.items()), form=entry.form)
        return replace(base, roles=entry.roles)

    def _parted_phrase(self, at: int) -> Mention | None:
        """A verb whose particle comes after its object: "roll checkout back"."""
        for particle, entry in self._lexicon.parted(self._words[at]):
            position = at + 1
            while position < min(at + _GAP, len(self._tokens)):
                if self._words[position] == particle:
                    if position == at + 1:
                        break
                    self._taken.add(position)
                    return self._known(at, 1, entry)
                match = self._lexicon.longest(self._words, position)
                if match is None or not (
                    match[1].names or match[1].roles & {"determiner", "filler"}
                ):
                    break
                position += match[0]
        return None

    def _single(self, at: int) -> Mention:
        token = self._tokens[at]
        base = self._base(at, 1)
        if token.kind in ("comma", "colon", "stop", "question"):
            return replace(base, mark=token.kind)
        if token.kind == "bracket":
            return replace(base, roles=frozenset({"filler"}))
        value = _value(token)
        if value is not None:
            return replace(base, slot=_SLOTS.get(token.kind, token.kind), value=value)
        return self._misspelt(token, base)

    def _misspelt(self, token: Token, base: Mention) -> Mention:
        unknown = replace(base, unknown=True)
        word = token.word
        if len(word) < _SHORTEST or not (word.isascii() and word.isalpha()):
            return unknown
        if self._fuzzy_left == 0:
            return unknown
        self._fuzzy_left -= 1
        near = {
            self._lexicon.single_names[known]: score / 100
            for known, score, _ in reversed(
                process.extract(
                    word,
                    [name for name in self._lexicon.single_names if _comparable(name, word)],
                    scorer=fuzz.ratio,
                    score_cutoff=_SIMILAR,
                )
            )
        }
        if len(near) != 1:
            return unknown
        thing: Name
        ((thing, similarity),) = near.items()
        return replace(base, slot=thing.kind, value=thing.name, similarity=similarity)

    def _base(self, at: int, length: int) -> Mention:
        start, end = self._tokens[at].start, self._tokens[at + length - 1].end
        return Mention(self._text[start:end], start, end)


def _value(token: Token) -> JsonValue:
    """The value that a token is by its form; ``None`` if it is a mere word."""
    if token.kind == "number":
        return int(token.word)
    if token.kind == "word":
        return NUMBERS.get(token.word)
    return None if token.kind == "other" else token.word


def _key(token: Token) -> str:
    """What the lexicon knows the token by; a break or a quotation is nothing it knows."""
    return (
        "" if token.kind in ("quoted", "stop", "comma", "colon", "question") else token.word.lower()
    )


def _comparable(name: str, word: str) -> bool:
    """Whether ``word`` may be ``name`` misspelt; the first letter is hardly ever wrong."""
    return (
        len(name) >= _SHORTEST
        and name[0] == word[0]
        and abs(len(name) - len(word)) <= _LENGTHS_DIFFER
    )


def _as_version(mention: Mention, before: Sequence[Mention]) -> Mention:
    """A number right after the word "version" is a version."""
    if mention.slot == "number" and before and before[-1].text.lower() in ("version", "v"):
        return replace(mention, slot="version", value=mention.text)
    return mention
