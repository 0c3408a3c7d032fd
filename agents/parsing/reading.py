"""Mentions as orders: which actions a text asks for, and what was said with each.

A chunk without a head continues the order before it ("restart checkout *and payments*") or
prepares the one after it ("*in staging*, restart checkout"). What is negated is set aside.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from agents.parsing import questions
from agents.parsing.clauses import OPENING, Chunk, Order, chunks, head_of, is_noun, sentences
from agents.parsing.mentions import Mention
from agents.parsing.negation import Reach, without_negated
from agents.parsing.questions import UnclearError, unclear
from agents.parsing.words import WordRole
from agents.runtime.catalogue import ActionSpec, Catalogue

_MESSENGER: Final = "notify"
"""The executor whose actions carry a message to people."""
_AHEAD: Final[frozenset[WordRole]] = OPENING | {"preposition", "origin", "determiner"}
"""What may stand around names ahead of an order."""
_CHANGING: Final[frozenset[WordRole]] = frozenset(
    {"alternative", "avert", "but", "condition", "done", "negation", "then"}
)
"""What in a reason may concern the order itself: "because it is slow, *but* not today"."""


@dataclass(slots=True)
class Reading:
    """What a text comes to."""

    orders: list[Order] = field(default_factory=list)
    asides: list[Mention] = field(default_factory=list)
    """What prepares an order: things named ahead of it."""
    negated: list[tuple[Mention, ...]] = field(default_factory=list)
    """What is not to be done; never acted on."""


def read(text: str, mentions: Sequence[Mention], catalogue: Catalogue) -> Reading:
    """The orders of a text, in its order.

    Raises:
        UnclearError: A condition, a choice, a negation whose extent is open, a statement or an
            open message.
    """
    reading = Reading()
    reader = _SentenceReader(text, catalogue, reading)
    for sentence, is_question in sentences(mentions):
        reader.read(sentence, is_question=is_question)
    return reading


class _SentenceReader:
    def __init__(self, text: str, catalogue: Catalogue, reading: Reading) -> None:
        self._text = text
        self._actions = catalogue.actions
        self._reading = reading

    def read(self, sentence: list[Mention], *, is_question: bool) -> None:
        """Add a sentence to the reading."""
        order: Order | None = None
        asides: list[Mention] = []
        reach: Reach = ""
        for chunk in chunks(_without_reason(self._with_message(sentence))):
            self._refuse_conditions(chunk)
            after_negation = reach == "order"
            cut = without_negated(chunk, reach)
            reach = cut.reach
            if cut.negated:
                self._reading.negated.append(cut.negated)
            for part in self._with_question_apart(cut.kept):
                started = self._start(part, is_question=is_question)
                if started is not None:
                    _coordinate(order, started)
                    started.asides = asides
                    self._add(started)
                    order = started
                elif part.joiner == "but" and not after_negation:
                    # "Restart the services but checkout": what follows may be left out.
                    raise UnclearError(questions.NEGATED)
                elif order is not None:
                    order.chunks.append(part)
                else:
                    asides.extend(part.mentions)
        _refuse_statement(asides, is_prelude=order is not None)
        self._reading.asides.extend(asides)

    def _add(self, order: Order) -> None:
        orders = self._reading.orders
        if order.embedded:
            # The answer is needed before the message that carries it.
            orders.insert(len(orders) - 1, order)
        else:
            orders.append(order)

    def _with_message(self, sentence: list[Mention]) -> list[Mention]:
        """The sentence with "tell #ops that …" or "tell #ops: …" read as a message."""
        speaks = False
        for at, mention in enumerate(sentence):
            if mention.is_phrase and mention.form == "base":
                speaks = self._is_messenger(mention)
            opens = "saying" in mention.roles or mention.mark == "colon"
            if not (opens and speaks and at + 1 < len(sentence)):
                continue
            before, rest = sentence[:at], sentence[at + 1 :]
            if any(m.slot == "quoted" for m in rest):
                return [*before, *rest]
            if any(m.is_phrase or m.roles & {"then", "done"} for m in rest):
                raise UnclearError(questions.MESSAGE_UNCLEAR)
            start, end = rest[0].start, rest[-1].end
            message = self._text[start:end].strip()
            return [*before, Mention(message, start, end, slot="quoted", value=message)]
        return sentence

    def _with_question_apart(self, chunk: Chunk) -> Iterator[Chunk]:
        """A chunk such as "tell #ops what version checkout runs" as its two parts."""
        mentions = chunk.mentions
        head = head_of(mentions)
        if head is not None and self._is_messenger(head):
            question = next((at for at, m in enumerate(mentions) if at and self._is_read(m)), None)
            if question is not None:
                while mentions[question - 1].roles & {"ask", "determiner"}:
                    question -= 1
                yield replace(chunk, mentions=mentions[:question])
                yield Chunk("", mentions[question:])
                return
        if mentions:
            yield chunk

    def _refuse_conditions(self, chunk: Chunk) -> None:
        for mention in chunk.mentions:
            if "condition" in mention.roles:
                raise unclear(questions.CONDITIONAL, word=mention.text)
        if chunk.joiner == "done" and not chunk.mentions and not self._reading.orders[:-1]:
            # "Tell #ops when done": nothing comes before that could be done.
            raise unclear(questions.CONDITIONAL, word="when done")

    def _start(self, chunk: Chunk, *, is_question: bool) -> Order | None:
        for mention in chunk.mentions:
            if "alternative" in mention.roles:
                raise unclear(questions.ALTERNATIVES, word=mention.text)
            if "muse" in mention.roles or (mention.is_phrase and mention.form != "base"):
                raise unclear(questions.NOT_AN_ORDER, word=mention.text)
        head = head_of(chunk.mentions)
        if head is not None and is_noun(head, chunk.mentions) and not self._is_read(head):
            head = None
        if head is None and not self._asks(chunk.mentions):
            return None
        polite = any("request" in mention.roles for mention in chunk.mentions)
        return Order(
            head,
            [chunk],
            is_question=is_question and not polite,
            embedded=chunk.joiner == "" and self._follows_message(chunk),
        )

    def _asks(self, mentions: Iterable[Mention]) -> bool:
        """Whether a chunk without a head is a question: every phrase in it asks to read."""
        phrases = [mention for mention in mentions if mention.is_phrase]
        return bool(phrases) and all(self._is_read(mention) for mention in phrases)

    def _follows_message(self, chunk: Chunk) -> bool:
        """Whether ``chunk`` goes on right where the last order, a message, stops."""
        if not self._reading.orders:
            return False
        last = self._reading.orders[-1]
        if last.head is None or not self._is_messenger(last.head):
            return False
        end = last.chunks[-1].mentions[-1].end
        return not self._text[end : chunk.mentions[0].start].strip()

    def _is_messenger(self, mention: Mention) -> bool:
        return any(spec.executor == _MESSENGER for spec in self._supported(mention))

    def _is_read(self, mention: Mention) -> bool:
        effects = {spec.effect for spec in self._supported(mention)}
        return mention.form == "base" and effects == {"read"}

    def _supported(self, mention: Mention) -> Iterator[ActionSpec]:
        return (self._actions[name] for name, weight in mention.weights if weight > 0)


def _without_reason(sentence: list[Mention]) -> list[Mention]:
    """The sentence up to "because", which must plainly say no more than why."""
    for at, mention in enumerate(sentence):
        if "reason" in mention.roles:
            for other in sentence[at:]:
                if other.is_phrase or other.mark or other.roles & _CHANGING:
                    raise unclear(questions.REASON_UNCLEAR, word=mention.text)
            return sentence[:at]
    return sentence


def _coordinate(before: Order | None, order: Order) -> None:
    """Note how an order is joined to the one before it in its sentence.

    Raises:
        UnclearError: "Restart checkout in staging, in production, check payments": a list that
            another order follows must be closed by "and", or nobody can tell to which of the two
            its last item belongs.
    """
    if before is None:
        return
    last = before.chunks[-1]
    if len(before.chunks) > 1 and last.joiner == "comma":
        raise unclear(questions.OPEN_LIST, word=last.mentions[0].text)
    if order.chunks[0].joiner in ("and", "then", "done"):
        before.is_coordinated = order.is_coordinated = True


def _refuse_statement(asides: Sequence[Mention], *, is_prelude: bool) -> None:
    """Refuse what is no order and prepares none.

    Args:
        asides: The words of a sentence that belong to no order.
        is_prelude: Whether an order follows in the sentence.
    """
    if unknown := [mention.text for mention in asides if mention.unknown]:
        raise questions.not_understood(unknown)
    allowed = _AHEAD if is_prelude else OPENING
    for mention in asides:
        if mention.is_phrase:
            raise unclear(questions.NOT_AN_ORDER, word=mention.text)
        if mention.slot and not is_prelude:
            raise unclear(questions.NO_DEED, word=mention.text)
        if not mention.slot and not mention.roles & allowed:
            raise questions.not_understood([mention.text])
