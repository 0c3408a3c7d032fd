"""The forms in which an English verb appears, so that an order is told from a mention of it."""

from typing import Final

from agents.parsing.words import IRREGULAR

_VOWELS: Final = "aeiou"
_SIBILANTS: Final = ("s", "x", "z", "ch", "sh")


def ing_forms(verb: str) -> frozenset[str]:
    """What ``verb`` becomes in "without restarting"."""
    forms = {f"{verb}ing"}
    if verb.endswith("e") and not verb.endswith("ee"):
        forms.add(f"{verb[:-1]}ing")
    if _doubles(verb):
        forms.add(f"{verb}{verb[-1]}ing")
    return frozenset(forms)


def other_forms(verb: str) -> frozenset[str]:
    """The third person and the past forms of ``verb``: it happens or happened, by itself."""
    forms = {f"{verb}s", f"{verb}ed", *IRREGULAR.get(verb, ())}
    if verb.endswith("e"):
        forms.add(f"{verb}d")
    if verb.endswith("y"):
        forms |= {f"{verb[:-1]}ies", f"{verb[:-1]}ied"}
    if verb.endswith(_SIBILANTS):
        forms.add(f"{verb}es")
    if _doubles(verb):
        forms.add(f"{verb}{verb[-1]}ed")
    return frozenset(forms)


def _doubles(verb: str) -> bool:
    """Whether the last letter may double, as in shipping."""
    return (
        len(verb) > 2  # noqa: PLR2004  # consonant, vowel, consonant
        and verb[-1] not in f"{_VOWELS}wxy"
        and verb[-2] in _VOWELS
        and verb[-3] not in _VOWELS
    )
