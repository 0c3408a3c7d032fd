"""Intent parser: turns a request into catalogue actions with typed parameters, by rules.

Consumes ``ExecutionRequest``; emits ``Intent``, or an ``Outcome`` with a question where the text
does not say plainly what to do. It never guesses an environment, never acts on what is negated, and
asks about every word that it does not understand: a wrong action is far worse than a question.
"""

from collections.abc import Iterable, Sequence
from typing import Final

from agents.parsing import questions
from agents.parsing.clauses import Order
from agents.parsing.lexicon import lexicon_of
from agents.parsing.mentions import Mention, annotate
from agents.parsing.negation import refuse_contradictions
from agents.parsing.questions import UnclearError, unclear
from agents.parsing.reading import read
from agents.parsing.scoring import Choice, choose
from agents.parsing.slots import SharedNames, fill
from agents.parsing.tokens import tokenise
from agents.runtime.catalogue import Catalogue
from agents.runtime.context import Context
from agents.runtime.roles import role
from schemas import ExecutionRequest, IntendedAction, Intent, Outcome

_MOST_ACTIONS: Final = 20
_LONGEST_TITLE: Final = 200


@role("intent_parser")
async def parse(request: ExecutionRequest, ctx: Context) -> Intent | Outcome:
    """What ``request`` asks for, or the question that has to be answered first."""
    request_id = ctx.message.message_id
    requester = request.requester.user
    if request.plan is not None:
        actions = ", then ".join(step.action for step in request.plan)
        return Intent(
            request_id=request_id,
            title=_title(request.text or actions),
            requester=requester,
            groups=request.requester.groups,
            steps=request.plan,
            on_failure=request.on_failure,
            parser="plan",
        )
    text = request.text or ""  # a request without a plan has one
    try:
        understood = understand(text, ctx.catalogue)
    except UnclearError as error:
        return Outcome(
            request_id=request_id,
            status="needs_clarification",
            code="needs_clarification",
            reason=error.question,
            title=_title(text) or None,
            requester=requester,
        )
    return Intent(
        request_id=request_id,
        title=_title(text),
        requester=requester,
        groups=request.requester.groups,
        actions=tuple(understood),
        on_failure=request.on_failure,
        parser="rules",
    )


def understand(text: str, catalogue: Catalogue) -> list[IntendedAction]:
    """The actions that ``text`` asks for, in order.

    The confidence of each is the product of two shares: how far its score stands out against the
    next best action's (1 where nothing speaks for another), and how similar the least similar name
    is to the one it was taken for (1 where all are spelt right).

    Raises:
        UnclearError: The text does not say plainly what to do.
    """
    mentions = annotate(text, tokenise(text), lexicon_of(catalogue))
    reading = read(text, mentions, catalogue)
    if len(reading.orders) > _MOST_ACTIONS:
        raise UnclearError(questions.TOO_MANY.format(most=_MOST_ACTIONS))
    if not reading.orders:
        if reading.negated:
            raise UnclearError(questions.NOTHING_LEFT)
        raise questions.nothing_found(catalogue)
    shared = SharedNames(reading)
    actions: list[IntendedAction] = []
    for order in reading.orders:
        actions.extend(_actions_of(order, shared, catalogue))
    if len(actions) > _MOST_ACTIONS:
        raise UnclearError(questions.TOO_MANY.format(most=_MOST_ACTIONS))
    _refuse_unused(reading.asides, actions, catalogue)
    refuse_contradictions(actions, reading.negated, catalogue)
    _refuse_lonely_message(actions, catalogue)
    return actions


def _actions_of(order: Order, shared: SharedNames, catalogue: Catalogue) -> list[IntendedAction]:
    choice: Choice = choose(order, catalogue)
    return [
        IntendedAction(
            action=choice.spec.id,
            parameters=filled.parameters,
            confidence=round(choice.share * filled.certainty, 3),
            evidence=choice.evidence,
        )
        for filled in fill(order, choice.spec, shared, catalogue)
    ]


def _refuse_unused(
    asides: Iterable[Mention], actions: Sequence[IntendedAction], catalogue: Catalogue
) -> None:
    """Refuse a thing that is named ahead of the orders and has no place in any of them."""
    used = {
        (parameter.entity, action.parameters.get(name))
        for action in actions
        for name, parameter in catalogue.action(action.action).parameters.items()
        if parameter.entity is not None
    }
    for mention in asides:
        if mention.slot and (mention.slot, mention.value) not in used:
            raise unclear(questions.NO_DEED, word=mention.text)


def _refuse_lonely_message(actions: list[IntendedAction], catalogue: Catalogue) -> None:
    """A message without words can only report on what was done before it."""
    first = actions[0]
    spec = catalogue.action(first.action)
    if spec.executor != "notify":
        return
    for name, parameter in spec.parameters.items():
        if parameter.from_text == "quoted" and name not in first.parameters:
            raise questions.missing(spec, [name], catalogue)


def _title(text: str) -> str:
    """The first words of ``text``, on one line."""
    line = " ".join(text.split())
    return line if len(line) <= _LONGEST_TITLE else f"{line[: _LONGEST_TITLE - 1]}…"
