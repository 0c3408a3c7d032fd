"""What an order is about: the values of an action's parameters, found in the text."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from pydantic import JsonValue

from agents.parsing import questions
from agents.parsing.clauses import Chunk, Order
from agents.parsing.mentions import Mention
from agents.parsing.reading import Reading
from agents.parsing.words import WordRole
from agents.runtime import references
from agents.runtime.catalogue import ENVIRONMENT, ActionSpec, Catalogue, ParameterSpec
from schemas import JsonObject

_ALWAYS: Final[frozenset[WordRole]] = frozenset(
    {"courtesy", "determiner", "filler", "preposition", "pronoun", "request"}
)


@dataclass(frozen=True, slots=True)
class Filled:
    """The parameters of one action, and how surely they were read."""

    parameters: JsonObject
    certainty: float
    """The least similarity of a name in the text to the name that it was taken for."""


class SharedNames:
    """Things named anywhere in the request, for orders that do not name them again."""

    def __init__(self, reading: Reading) -> None:
        everything = [
            *reading.asides,
            *(mention for order in reading.orders for mention in order.mentions),
        ]
        self._named = [mention for mention in everything if mention.slot]

    def only(self, kind: str, *, before: int | None = None) -> Mention | None:
        """The one thing of a kind that the request names; ``None`` for none and for several.

        Args:
            kind: The kind of thing.
            before: Where given, only what is named ahead of this offset counts.
        """
        return _only(
            mention
            for mention in self._named
            if mention.slot == kind and (before is None or mention.start < before)
        )


def fill(order: Order, spec: ActionSpec, shared: SharedNames, catalogue: Catalogue) -> list[Filled]:
    """The parameters of each action that an order comes to: one, or one per thing it names.

    Raises:
        UnclearError: A required value is missing or could be several, a value is not allowed, or
            something was said that has no place in the action.
    """
    _refuse_leftovers(order, spec)
    rows = _rows(order, spec)
    return [_complete(row, order, spec, shared, catalogue) for row in rows]


def _slot_of(parameter: ParameterSpec) -> str | None:
    return parameter.entity or parameter.from_text


def _refuse_leftovers(order: Order, spec: ActionSpec) -> None:
    """Refuse an order with words that have no place in its action."""
    unknown = [mention.text for mention in order.mentions if mention.unknown]
    if unknown:
        raise questions.not_understood(unknown)
    if order.is_question and spec.effect != "read":
        head = order.head.text if order.head is not None else spec.id
        raise questions.unclear(questions.NOT_AN_ORDER, word=head)
    roles = _understood_roles(spec)
    slots = {_slot_of(parameter) for parameter in spec.parameters.values()}
    light = order.light_verb
    for mention in order.mentions:
        if mention.slot and mention.slot not in slots:
            raise questions.unused(spec, mention.text)
        if mention.slot or mention.is_phrase or mention.roles & roles or mention == light:
            continue
        if "origin" in mention.roles:
            raise questions.unclear(questions.ORIGIN, word=mention.text)
        raise questions.not_understood([mention.text])


def _understood_roles(spec: ActionSpec) -> frozenset[WordRole]:
    """What words may do in an order for the action without changing what is to be done."""
    roles = set(_ALWAYS)
    if spec.effect == "read":
        roles.add("ask")
    if spec.executor == "notify":
        roles.add("report")
    if not any(parameter.from_text for parameter in spec.parameters.values()):
        # "Delete checkout from staging"; but a deployment "from staging" goes somewhere else.
        roles.add("origin")
    return frozenset(roles)


def _rows(order: Order, spec: ActionSpec) -> list[dict[str, Mention]]:
    """Values by parameter; several rows where the text lists things ("checkout and payments")."""
    columns = {
        name: found
        for name, parameter in spec.parameters.items()
        if (found := _column(order.chunks, name, parameter, spec))
    }
    several = {name: found for name, found in columns.items() if len(found) > 1}
    singles = {name: next(iter(found.values())) for name, found in columns.items()}
    if not several:
        return [singles]
    listed = next(iter(several.values()))
    if any(found.keys() != listed.keys() for found in several.values()):
        name, found = next(iter(several.items()))
        raise questions.several_values(spec, name, (mention.value for mention in found.values()))
    _refuse_unshareable(columns, several, spec)
    rows = [{**singles, **{name: found[at] for name, found in several.items()}} for at in listed]
    return _distinct(rows)


def _column(
    chunks: Sequence[Chunk], name: str, parameter: ParameterSpec, spec: ActionSpec
) -> dict[int, Mention]:
    """By chunk, what it says for one parameter."""
    slot = _slot_of(parameter)
    column: dict[int, Mention] = {}
    for at, chunk in enumerate(chunks):
        found = [mention for mention in chunk.mentions if slot and mention.slot == slot]
        if len({str(mention.value) for mention in found}) > 1:
            raise questions.several_values(spec, name, (mention.value for mention in found))
        if found:
            if slot == "number" and not _is_target(chunk.mentions, found[0]):
                raise questions.missing_target(spec, name, found[0].text)
            column[at] = found[0]
    return column


def _is_target(mentions: Sequence[Mention], number: Mention) -> bool:
    """Whether a number says what shall be: "to 5", or "5 replicas" where that is a phrase."""
    at = mentions.index(number)
    before = mentions[at - 1] if at else None
    after = mentions[at + 1] if at + 1 < len(mentions) else None
    return (before is not None and before.text.lower() in ("to", "at")) or (
        after is not None and after.is_phrase
    )


def _refuse_unshareable(
    columns: Mapping[str, Mapping[int, Mention]],
    several: Mapping[str, Mapping[int, Mention]],
    spec: ActionSpec,
) -> None:
    """A value said once in a list must plainly hold for all of it.

    An environment does, wherever it stands. A version never does ("deploy checkout and payments
    2.4.1"), and any other value only where it closes the list.
    """
    if all(spec.parameters[name].entity == ENVIRONMENT for name in several):
        return  # the same thing in several places
    last = max(at for found in several.values() for at in found)
    for name, found in columns.items():
        parameter = spec.parameters[name]
        if name in several or parameter.entity == ENVIRONMENT:
            continue
        if parameter.from_text == "version" or (parameter.entity is None and min(found) < last):
            things = [str(mention.value) for mention in next(iter(several.values())).values()]
            raise questions.not_shared(spec, name, next(iter(found.values())).text, things)


def _distinct(rows: Iterable[dict[str, Mention]]) -> list[dict[str, Mention]]:
    seen = {tuple((name, str(mention.value)) for name, mention in row.items()): row for row in rows}
    return list(seen.values())


def _complete(
    row: Mapping[str, Mention],
    order: Order,
    spec: ActionSpec,
    shared: SharedNames,
    catalogue: Catalogue,
) -> Filled:
    found = dict(row)
    absent = []
    for name, parameter in spec.parameters.items():
        if name in found:
            continue
        borrowed = _borrow(parameter, order, shared)
        if borrowed is not None:
            found[name] = borrowed
        elif parameter.required:
            absent.append(name)
    if absent:
        raise questions.missing(spec, absent, catalogue)
    _refuse_conflicting_asides(found, order, spec)
    parameters = {name: _value(spec.parameters[name], found[name]) for name in found}
    if problems := spec.check_parameters(parameters):
        raise questions.unfit(spec, problems)
    return Filled(parameters, min((mention.similarity for mention in found.values()), default=1.0))


def _borrow(parameter: ParameterSpec, order: Order, shared: SharedNames) -> Mention | None:
    """What another part of the request says for an order that does not say it.

    An environment holds for its sentence if it opens that ("in staging, …"), and for the whole
    request if it is the only one. Any other thing is borrowed only by a pronoun, from what was
    said before ("restart it"), or by a bare verb ("check and restart checkout").
    """
    kind = parameter.entity
    if kind is None:
        return None
    if kind == ENVIRONMENT:
        ahead = _only(mention for mention in order.asides if mention.slot == kind)
        return ahead or shared.only(kind)
    pronoun = next((m for m in order.mentions if "pronoun" in m.roles), None)
    if pronoun is not None:
        return shared.only(kind, before=pronoun.start)
    is_bare = not any(mention.slot for mention in order.mentions)
    is_joined = order.is_coordinated or bool(order.asides)
    return shared.only(kind) if is_bare and is_joined else None


def _only(mentions: Iterable[Mention]) -> Mention | None:
    named = {str(mention.value): mention for mention in mentions}
    return next(iter(named.values())) if len(named) == 1 else None


def _refuse_conflicting_asides(
    found: Mapping[str, Mention], order: Order, spec: ActionSpec
) -> None:
    """Refuse "in staging, restart checkout in production"."""
    for name, mention in found.items():
        values = {m.value for m in order.asides if m.slot == spec.parameters[name].entity}
        if values and values != {mention.value}:
            raise questions.several_values(spec, name, dict.fromkeys([*values, mention.value]))


def _value(parameter: ParameterSpec, mention: Mention) -> JsonValue:
    value = mention.value
    # What people write is text, never a reference to another step's output.
    return (
        references.escape(value) if isinstance(value, str) and parameter.entity is None else value
    )
