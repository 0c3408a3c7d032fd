"""What the parser asks when it does not act, in plain words."""

from collections.abc import Iterable, Sequence
from typing import Final

from agents.runtime.catalogue import ActionSpec, Catalogue

_MOST_SHOWN: Final = 5
_LONGEST_WORD: Final = 40

NEGATED: Final = (
    "I never act on what a request says not to do, and I am not sure what is left to do. "
    "Which actions do you want, in order?"
)
NOTHING_LEFT: Final = (
    "I read the request as saying only what not to do, so nothing was done. What do you want?"
)
CONTRADICTION: Final = (
    "The request both asks for an action and says not to do it. Which of the two holds?"
)
CONDITIONAL: Final = (
    "I take no conditions or times such as {word!r}: what I am told is done at once, in the order "
    "of the text. Which actions do you want now?"
)
ALTERNATIVES: Final = "The request leaves a choice with {word!r}. Which one do you want?"
NOT_AN_ORDER: Final = (
    "{word!r} reads like a question or a statement rather than an order. If you want it done, say "
    'it as an order, such as "restart checkout in staging".'
)
REASON_UNCLEAR: Final = (
    "I cannot tell whether what follows {word!r} only says why. Please leave the reason out, or "
    "give it in a sentence of a few words."
)
OPEN_LIST: Final = (
    "I cannot tell to which action {word!r} belongs. Please write one action per sentence."
)
NO_DEED: Final = (
    "The request names {word!r} but does not say what to do with it. Say it as an order, such as "
    '"restart checkout in staging".'
)
ORIGIN: Final = (
    "I cannot tell what {word!r} says about where it shall happen. Please name only the place "
    "where something shall be done."
)
MESSAGE_UNCLEAR: Final = (
    "I cannot tell where the message ends and the next action begins. Please put the message in "
    "quotation marks."
)
BIDIRECTIONAL: Final = (
    "The text contains invisible characters that change the order in which it is displayed. "
    "Please type it again without them."
)
TOO_MANY: Final = (
    "The text comes to more than {most} actions. Please send a plan, or several requests."
)
NOTHING_FOUND: Final = "I found no action in the request. What I can do: {known}."


class UnclearError(Exception):
    """The text does not say plainly what to do; ``question`` is what to ask the requester."""

    def __init__(self, question: str) -> None:
        super().__init__(question)
        self.question = question


def unclear(template: str, **words: str) -> UnclearError:
    """The error for one of the sentences above, with the words of the request it is about."""
    return UnclearError(template.format(**{key: shorten(word) for key, word in words.items()}))


def shorten(word: str) -> str:
    """``word`` as it can stand in a sentence."""
    plain = " ".join(word.split())
    return plain if len(plain) <= _LONGEST_WORD else f"{plain[:_LONGEST_WORD]}…"


def choices(names: Iterable[object], last: str = "or") -> str:
    """``a, b or c``."""
    *head, tail = [str(name) for name in names]
    return f"{', '.join(head)} {last} {tail}" if head else tail


def not_understood(words: Sequence[str]) -> UnclearError:
    """Words that mean nothing to the parser, so that acting on the rest could be wrong."""
    distinct = list(dict.fromkeys(shorten(word) for word in words))
    shown = choices([repr(word) for word in distinct[:_MOST_SHOWN]], "and")
    more = f" and {len(distinct) - _MOST_SHOWN} more" if len(distinct) > _MOST_SHOWN else ""
    return UnclearError(
        f"I did not understand {shown}{more}, and rather ask than act on half a request. "
        "Please say it in other words, or put a message in quotation marks."
    )


def mixed_letters(word: str, first: str, second: str) -> UnclearError:
    """A word in letters that look alike but belong to different scripts."""
    return UnclearError(
        f"The word {shorten(word)!r} mixes {first} and {second} letters, which may only look like "
        "a name that I know. Please type it again."
    )


def missing(spec: ActionSpec, names: Sequence[str], catalogue: Catalogue) -> UnclearError:
    """Required parameters that the text does not give."""
    asked = " ".join(_ask_for(spec, name, catalogue) for name in names)
    return UnclearError(f"{_purpose(spec)}: {asked}")


def several_values(spec: ActionSpec, name: str, values: Iterable[object]) -> UnclearError:
    """More than one value where it is not clear which belongs to what."""
    return UnclearError(
        f"{_purpose(spec)}: which {name} is meant, {_shown(values)}? "
        "Please write one action per sentence."
    )


def not_shared(spec: ActionSpec, name: str, value: str, things: Sequence[str]) -> UnclearError:
    """A value that is said once in a list, so that it is not clear for which things it holds."""
    return UnclearError(
        f"{_purpose(spec)}: does {name} {shorten(value)} hold for {_shown(things, 'and')} "
        "alike? Please say it for each of them."
    )


def unused(spec: ActionSpec, word: str) -> UnclearError:
    """A thing that the text names and the action has no place for."""
    return UnclearError(
        f"{_purpose(spec)}: I do not see what {shorten(word)!r} has to do with it. "
        "Please say it in other words."
    )


def missing_target(spec: ActionSpec, name: str, number: str) -> UnclearError:
    """A number of which it is not clear that it is the target."""
    return UnclearError(
        f"{_purpose(spec)}: is {number} the {name} that you want in the end? "
        f'Then please say "to {number}".'
    )


def unfit(spec: ActionSpec, problems: Iterable[str]) -> UnclearError:
    """Values that the catalogue does not allow."""
    return UnclearError(f"{_purpose(spec)}: {'; '.join(problems)}. What shall it be instead?")


def ambiguous(specs: Iterable[ActionSpec]) -> UnclearError:
    """Several actions fit."""
    return UnclearError(
        f"The request could mean {choices(spec.id for spec in specs)}. Which one do you want?"
    )


def nothing_found(catalogue: Catalogue) -> UnclearError:
    """No action of the catalogue is asked for."""
    known = [spec.phrases[0].phrase for spec in catalogue.actions.values() if spec.phrases]
    return UnclearError(NOTHING_FOUND.format(known=", ".join(known)))


def _shown(values: Iterable[object], last: str = "or") -> str:
    distinct = list(dict.fromkeys(shorten(str(value)) for value in values))
    more = [f"{len(distinct) - _MOST_SHOWN} more"] if len(distinct) > _MOST_SHOWN else []
    return choices([*distinct[:_MOST_SHOWN], *more], last)


def _purpose(spec: ActionSpec) -> str:
    return f'For "{spec.phrases[0].phrase}"' if spec.phrases else f"For {spec.id}"


def _ask_for(spec: ActionSpec, name: str, catalogue: Catalogue) -> str:
    parameter = spec.parameters[name]
    word = name.replace("_", " ")
    if parameter.entity is not None:
        known = choices(catalogue.names(parameter.entity))
        start = "In which" if parameter.entity == "environment" else "Which"
        return f"{start} {word}? {known[:1].upper()}{known[1:]}."
    return f"Which {word}? {parameter.description}"
