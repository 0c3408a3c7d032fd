"""Everything the parser knows by its words: phrases and names of the catalogue, and word lists."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

from agents.parsing.inflection import ing_forms, other_forms
from agents.parsing.tokens import tokenise
from agents.parsing.words import PARTICLES, WORDS, WordRole
from agents.runtime.catalogue import ENVIRONMENT, Catalogue

Form = Literal["base", "ing", "other"]
"""An order has the base form; in "-ing" or the past a phrase is only spoken about."""


@dataclass(frozen=True, slots=True)
class Name:
    """A thing of the catalogue, under one of its names."""

    kind: str
    name: str


@dataclass(frozen=True, slots=True)
class Entry:
    """What a sequence of words means. Where it is several things, all are given."""

    names: tuple[Name, ...] = ()
    weights: Mapping[str, float] = field(default_factory=dict)
    """By action, how much the words speak for it; empty where they are no phrase."""
    form: Form = "base"
    roles: frozenset[WordRole] = frozenset()


class Lexicon:
    """The words of one catalogue, found by the longest match.

    Args:
        catalogue: Where phrases and names come from.
    """

    def __init__(self, catalogue: Catalogue) -> None:
        self._entries: dict[tuple[str, ...], Entry] = {}
        self._longest: dict[str, int] = {}
        self._parted: dict[str, list[tuple[str, Entry]]] = {}
        self._single: dict[str, set[Name]] = {}
        for role, texts in WORDS.items():
            for text in texts:
                self._add_roles(_words(text), frozenset({role}))
        for kind in catalogue.kinds():
            self._add_roles(_words(kind), frozenset({"filler"}))
            self._add_roles(_words(f"{kind}s"), frozenset({"filler"}))
            self._add_names(catalogue, kind)
        for words, weights in _phrases(catalogue).items():
            self._add_phrase(words, weights)
        self.single_names: Mapping[str, Name] = {
            word: next(iter(things)) for word, things in self._single.items() if len(things) == 1
        }
        """Names of one word, for words that are misspelt; environments are not among them."""

    def longest(self, words: Sequence[str], at: int) -> tuple[int, Entry] | None:
        """The longest entry that starts at ``at``, with the number of words that it takes."""
        most = min(self._longest.get(words[at], 0), len(words) - at)
        for length in range(most, 0, -1):
            entry = self._entries.get(tuple(words[at : at + length]))
            if entry is not None:
                return length, entry
        return None

    def parted(self, verb: str) -> Sequence[tuple[str, Entry]]:
        """By particle, what ``verb`` means with a particle that stands apart from it."""
        return self._parted.get(verb, ())

    def _add_roles(self, words: tuple[str, ...], roles: frozenset[WordRole]) -> None:
        known = self._entries.get(words, Entry())
        self._put(words, Entry(known.names, known.weights, known.form, known.roles | roles))

    def _add_names(self, catalogue: Catalogue, kind: str) -> None:
        for name, aliases in catalogue.names(kind).items():
            for label in (name, *aliases):
                words = _words(label)
                known = self._entries.get(words, Entry())
                thing = Name(kind, name)
                names = known.names if thing in known.names else (*known.names, thing)
                # A name means the thing, even where the word is in a list as well.
                self._put(words, Entry(names=names))
                if len(words) == 1 and kind != ENVIRONMENT:
                    self._single.setdefault(words[0], set()).add(thing)

    def _add_phrase(self, words: tuple[str, ...], weights: Mapping[str, float]) -> None:
        verb, *rest = words
        forms: list[tuple[Form, Iterable[str]]] = [
            ("base", [verb]),
            ("ing", ing_forms(verb)),
            ("other", other_forms(verb)),
        ]
        for form, spellings in forms:
            for spelling in spellings:
                key = (spelling, *rest)
                known = self._entries.get(key)
                if known is not None and (known.names or (form != "base" and known.weights)):
                    continue
                entry = Entry(weights=weights, form=form)
                self._put(key, entry)
                if len(rest) == 1 and rest[0] in PARTICLES:
                    self._parted.setdefault(spelling, []).append((rest[0], entry))

    def _put(self, words: tuple[str, ...], entry: Entry) -> None:
        self._entries[words] = entry
        self._longest[words[0]] = max(len(words), self._longest.get(words[0], 0))


_KEPT: Final = 4
_cache: list[tuple[Catalogue, Lexicon]] = []


def lexicon_of(catalogue: Catalogue) -> Lexicon:
    """The lexicon of ``catalogue``; made once for each of the last few catalogues in use."""
    for known, lexicon in _cache:
        if known is catalogue:
            return lexicon
    lexicon = Lexicon(catalogue)
    _cache.append((catalogue, lexicon))
    del _cache[:-_KEPT]
    return lexicon


def _words(text: str) -> tuple[str, ...]:
    return tuple(token.word.lower() for token in tokenise(text))


def _phrases(catalogue: Catalogue) -> Mapping[tuple[str, ...], Mapping[str, float]]:
    """By words, the weights that they have for the actions."""
    found: dict[tuple[str, ...], dict[str, float]] = {}
    for action, words, weight in _weighted(catalogue):
        found.setdefault(words, {})[action] = weight
    return found


def _weighted(catalogue: Catalogue) -> Iterator[tuple[str, tuple[str, ...], float]]:
    for spec in catalogue.actions.values():
        for phrase in spec.phrases:
            yield spec.id, _words(phrase.phrase), phrase.weight
