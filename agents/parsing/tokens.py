"""A text as tokens: words, values in a recognisable form, quotations and breaks."""

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Literal

from agents.parsing import questions

TokenKind = Literal[
    "word",
    "version",
    "number",
    "channel",
    "url",
    "quoted",
    "comma",
    "colon",
    "stop",
    "question",
    "bracket",
    "other",
]


@dataclass(frozen=True, slots=True)
class Token:
    """A piece of the text. ``word`` is what it means, in lower case and without contraction."""

    kind: TokenKind
    word: str
    start: int
    end: int


#: Typographic forms of what has an ASCII form; one to one, so that offsets stay true.
_FOLDED: Final = str.maketrans(
    {
        **dict.fromkeys("‘’‚′ʼ", "'"),  # noqa: RUF001  # the look-alikes are the point
        **dict.fromkeys("“”„«»″", '"'),
        **dict.fromkeys("‐‑–—−", "-"),  # noqa: RUF001  # the look-alikes are the point
        **dict.fromkeys("\u00a0\u2007\u202f\u3000\t", " "),
        "\r": "\n",
        "\u2028": "\n",
        "\u2029": "\n",
        "…": ".",
    }
)
_BIDIRECTIONAL: Final = re.compile("[\u202a-\u202e\u2066-\u2069]")
_PIECE: Final = re.compile(r"https?://\S+|[#@$%&/\\+\w.'-]+|[^\S\n]+|\n|.")
_TRAILING: Final = ".'-"
_BREAKS: Final[dict[str, TokenKind]] = {
    ",": "comma",
    ":": "colon",
    ".": "stop",
    "!": "stop",
    ";": "stop",
    "\n": "comma",
    "?": "question",
    "(": "bracket",
    ")": "bracket",
    "[": "bracket",
    "]": "bracket",
}
_FORMS: Final[tuple[tuple[TokenKind, re.Pattern[str]], ...]] = (
    ("number", re.compile(r"\d{1,9}", re.ASCII)),
    ("version", re.compile(r"v?\d+(\.\d+)+([.+-][0-9a-z]+)*|v\d+([.+-][0-9a-z]+)*", re.ASCII)),
    ("channel", re.compile(r"#[\w-]+")),
    ("url", re.compile(r"https?://.+")),
    ("word", re.compile(r"[^\W\d_][\w'-]*(\.\w+)*")),
)
_CONTRACTIONS: Final[dict[str, tuple[str, ...]]] = {
    "let's": ("lets",),
    "won't": ("will", "not"),
    "can't": ("can", "not"),
    "cannot": ("can", "not"),
    "dont": ("do", "not"),
    "doesnt": ("does", "not"),
    "cant": ("can", "not"),
    "wont": ("will", "not"),
    "shouldnt": ("should", "not"),
}
_ENDINGS: Final[dict[str, str]] = {
    "n't": "not",
    "'s": "is",
    "'re": "are",
    "'d": "would",
    "'ll": "will",
    "'ve": "have",
    "'m": "am",
}
#: Scripts with letters that pass for Latin ones.
_LOOK_ALIKE: Final = frozenset({"CYRILLIC", "GREEK", "ARMENIAN", "CHEROKEE", "COPTIC", "LISU"})


def tokenise(text: str) -> list[Token]:
    """The tokens of ``text`` in order; every character but blanks belongs to one.

    Raises:
        UnclearError: A word mixes letters of scripts that look alike, or the text contains
            characters that change the order in which it is displayed.
    """
    if _BIDIRECTIONAL.search(text):
        raise questions.UnclearError(questions.BIDIRECTIONAL)
    folded = text.translate(_FOLDED)
    tokens: list[Token] = []
    position = 0
    for start, end in _quotations(folded):
        tokens.extend(_pieces(folded, position, start))
        tokens.append(Token("quoted", text[start + 1 : end - 1].strip(), start, end))
        position = end
    tokens.extend(_pieces(folded, position, len(folded)))
    for token in tokens:
        if token.kind != "quoted" and not token.word.isascii():
            _refuse_mixed_letters(token.word)
    return tokens


def _quotations(text: str) -> Iterator[tuple[int, int]]:
    """Where quotations begin and end, their marks included; in one pass."""
    openings = re.finditer(r"""(?<!\w)["'](?=\S)""", text)
    position = 0
    unclosed: set[str] = set()
    for opening in openings:
        mark = opening.group()
        if opening.start() < position or mark in unclosed:
            continue
        closing = re.compile(mark + r"(?!\w)").search(text, opening.end())
        if closing is None:
            unclosed.add(mark)
            continue
        position = closing.end()
        yield opening.start(), position


def _pieces(text: str, start: int, end: int) -> Iterator[Token]:
    for match in _PIECE.finditer(text, start, end):
        piece = match.group()
        if piece.isspace() and piece != "\n":
            continue
        core = piece if piece in _BREAKS else piece.rstrip(_TRAILING)
        if core:
            yield from _classified(core, match.start())
        rest = piece[len(core) :]
        if "." in rest:
            yield Token("stop", ".", match.start() + len(core), match.end())
        elif "'" in rest:
            yield Token("other", rest, match.start() + len(core), match.end())
        elif rest:
            # A dash between words sets them apart as a comma does.
            yield Token("comma", rest, match.start() + len(core), match.end())


def _classified(piece: str, start: int) -> Iterator[Token]:
    end = start + len(piece)
    if piece in _BREAKS:
        yield Token(_BREAKS[piece], piece, start, end)
        return
    word = piece.lower()
    kind: TokenKind = next((kind for kind, form in _FORMS if form.fullmatch(word)), "other")
    if kind == "word":
        for part in _expanded(word):
            yield Token("word", part, start, end)
    else:
        yield Token(kind, piece, start, end)


def _expanded(word: str) -> tuple[str, ...]:
    if word in _CONTRACTIONS:
        return _CONTRACTIONS[word]
    for ending, meaning in _ENDINGS.items():
        if word.endswith(ending) and len(word) > len(ending):
            return word[: -len(ending)], meaning
    return (word,)


def _refuse_mixed_letters(word: str) -> None:
    scripts = dict.fromkeys(
        unicodedata.name(letter, "UNKNOWN").split()[0] for letter in word if letter.isalpha()
    )
    if "LATIN" in scripts:
        for script in scripts:
            if script in _LOOK_ALIKE:
                raise questions.mixed_letters(word, "Latin", script.capitalize())
