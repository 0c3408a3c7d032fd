"""The closed lists of words that the parser knows beside the catalogue.

A word that is in none of them, no phrase and no name is not understood. So each list is a promise:
whatever stands in it changes nothing about what is to be done, or is dealt with by its role.
"""

from collections.abc import Mapping
from typing import Final, Literal

WordRole = Literal[
    "alternative",
    "and",
    "ask",
    "avert",
    "but",
    "condition",
    "courtesy",
    "determiner",
    "done",
    "filler",
    "light",
    "muse",
    "negation",
    "origin",
    "preposition",
    "pronoun",
    "reason",
    "report",
    "request",
    "saying",
    "then",
]
"""What a word or an idiom does in a sentence; some do several things."""


def _list(text: str) -> tuple[str, ...]:
    """The words and idioms of ``text``, which commas and line ends separate."""
    return tuple(part.strip() for part in text.replace("\n", ",").split(",") if part.strip())


WORDS: Final[Mapping[WordRole, tuple[str, ...]]] = {
    # What comes next is done next. "When done" is what a sequence means anyway.
    "and": _list("and, &, plus, as well as"),
    "then": _list("""
        then, and then, after that, afterwards, next, finally, lastly, followed by, subsequently
    """),
    "done": _list("""
        when done, when finished, when ready, when it is done, when it is finished
        when it is ready, when that is done, when that is finished, when this is done
        when you are done, once done, once finished, once it is done, once it is finished
        once that is done, once you are done
    """),
    "but": _list("but"),
    # Never acted on: a choice, a condition or a time, and what is not to be done.
    "alternative": _list("or, either, and/or"),
    "condition": _list("""
        if, unless, when, whenever, once, until, till, while, otherwise, else, in case, provided
        assuming, supposing, suppose, before, after, as soon as, tomorrow, tonight, today, later
        every, daily, hourly, except, apart from
    """),
    "negation": _list("""
        not, never, do not, no, nor, neither, must not, should not, will not, can not, may not
        would not, could not, does not, please do not, under no circumstances, no need to, avoid
        hold off, stop, cancel, skip, refrain from, abort, undo, forget
    """),
    "avert": _list("without, instead of, rather than"),
    # The rest of the sentence says why.
    "reason": _list("because, since, as it is"),
    # Ways to ask for something to be done.
    "request": _list("""
        please, pls, plz, kindly, can you, could you, would you, will you, can you please
        could you please, can someone, could someone, can somebody, could somebody, i want to
        i want you to, i would like to, i would like you to, i need to, i need you to, we need to
        we need you to, we want to, we have to, we must, you need to, need to, lets, let us
        go ahead and, time to, it is time to, be so kind and, make sure to
    """),
    # Every requester gets a report, so asking for one changes nothing either.
    "courtesy": _list("""
        hi, hello, hey, hi there, hello there, hey there, hi all, hi team, hey team, hello team
        team, folks, all right, ok, okay, good morning, good evening, thanks, thank you, thx
        thanks a lot, many thanks, cheers, and tell me, and let me know, and report back
        and tell me when done, and tell me when it is done, and tell me how it went
        and let me know when done, and let me know when it is done, and let me know how it went
    """),
    # "Do a restart of".
    "light": _list("do, perform, make, take, run, trigger, start, initiate, give"),
    "determiner": _list("the, a, an, our, my, your"),
    "preposition": _list("in, on, at, to, of, for, into, onto, within"),
    # Where something is taken away from; what is brought in comes from elsewhere.
    "origin": _list("from"),
    "filler": _list("""
        also, too, as well, just, now, right now, right away, immediately, asap, quickly, first
        both, version, at once, straight away, once more, instead, env, db
    """),
    "pronoun": _list("it, its, there, that service, this service, that one, the same service"),
    # Words of plain questions, understood where only reading is asked for.
    "ask": _list("""
        what, which, how, whether, is, are, does, do, run, runs, running, currently, current, still
        show, show me, give me, get, get me, see, tell me, let me know, let me see, can i see
        do you know, i want to know, doing, going, feeling, has, have, deployed, live version
        state, up
    """),
    # Words of thinking aloud.
    "muse": _list("""
        should, shall, would, could, might, may, can, will, why, who, whom, explain, describe
        what if, what happens, how to, how do, how can, was, were, did, had, been, be, maybe
        perhaps, wonder, think, safe
    """),
    # What people say around a message.
    "report": _list("""
        know, about it, about this, about that, about the result, about the outcome, the result
        the results, the outcome, with the result, how it went, message, a message, the message
        channel, people in, everyone in, everybody in, folks in, that it is done
        that this is done, that we are done
    """),
    # Introduces a message without quotation marks.
    "saying": _list("that, saying, which says, with the message, with the text"),
}

PARTICLES: Final = frozenset({"back", "up", "out", "down", "off"})
"""What may stand apart from its verb: "roll checkout back"."""

NUMBERS: Final[Mapping[str, int]] = {
    word: number
    for number, word in enumerate(
        _list("zero, one, two, three, four, five, six, seven, eight, nine, ten, eleven, twelve")
    )
}

IRREGULAR: Final[Mapping[str, tuple[str, ...]]] = {
    "bring": ("brought",),
    "get": ("got", "gotten"),
    "give": ("gave", "given"),
    "send": ("sent",),
    "take": ("took", "taken"),
    "tear": ("tore", "torn"),
    "tell": ("told",),
    "undo": ("undid", "undone"),
}
"""Past forms that follow no rule."""
