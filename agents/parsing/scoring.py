"""Which action an order asks for: phrases and what else was named, weighed by the catalogue."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from agents.parsing import questions
from agents.parsing.clauses import Order
from agents.runtime.catalogue import ActionSpec, Catalogue

LEAST_SCORE: Final = 0.5
"""Below this, what speaks for an action is too little to act on."""
LEAST_MARGIN: Final = 0.3
"""Nearer than this, two actions are too close to choose one."""


@dataclass(frozen=True, slots=True)
class Choice:
    """The action that an order asks for.

    ``share`` is its score's part of the sum of its own and the next best action's score: 1 where
    nothing speaks for another action.
    """

    spec: ActionSpec
    share: float
    evidence: tuple[str, ...]
    """The words of the request that speak for it."""


def choose(order: Order, catalogue: Catalogue) -> Choice:
    """The action of an order.

    Only an action whose phrase opens the order can be chosen; everything else only weighs. A
    phrase that does not speak for the chosen action makes the order unclear.

    Raises:
        UnclearError: No action is plain enough, or two are close.
    """
    scores = _scores(order, catalogue)
    candidates = {
        name: score for name, score in scores.items() if _may_be(order, catalogue.actions[name])
    }
    if not candidates:
        raise questions.nothing_found(catalogue)
    best = max(candidates, key=lambda name: candidates[name])
    second = max(
        (name for name in scores if name != best), key=lambda name: scores[name], default=None
    )
    phrases = [mention for mention in order.mentions if mention.is_phrase]
    rivals = [
        name
        for mention in phrases
        if not mention.supports(best)
        for name, weight in mention.weights
        if weight > 0
    ]
    close = second is not None and scores[best] - scores[second] < LEAST_MARGIN
    if close and second is not None:
        rivals.append(second)
    if rivals:
        names = dict.fromkeys((best, *rivals))
        raise questions.ambiguous(catalogue.actions[name] for name in names)
    if scores[best] < LEAST_SCORE:
        raise questions.nothing_found(catalogue)
    other = max(0.0, scores[second]) if second is not None else 0.0
    return Choice(
        catalogue.actions[best],
        scores[best] / (scores[best] + other),
        tuple(dict.fromkeys(" ".join(m.text.split()) for m in phrases if m.supports(best))),
    )


def _scores(order: Order, catalogue: Catalogue) -> Mapping[str, float]:
    """By action that any phrase speaks for, what speaks for it less what speaks against it."""
    scores: dict[str, float] = {}
    # The same words said twice say no more.
    said = {mention.text.lower(): mention for mention in order.mentions if mention.is_phrase}
    for mention in said.values():
        for name, weight in mention.weights:
            scores[name] = scores.get(name, 0.0) + weight
    named = {mention.slot for mention in order.mentions if mention.slot}
    for name in scores:
        evidence = catalogue.actions[name].evidence
        scores[name] += sum(evidence.get(kind, 0.0) for kind in named)
    return scores


def _may_be(order: Order, spec: ActionSpec) -> bool:
    if order.head is not None:
        return order.head.supports(spec.id)
    return spec.effect == "read" and any(mention.supports(spec.id) for mention in order.mentions)
