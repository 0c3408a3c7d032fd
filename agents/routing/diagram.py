"""The states of an execution as a Mermaid diagram, made from the table of moves.

``python -m agents.routing.diagram`` writes it into ARCHITECTURE.md; a test compares the two.
"""

from typing import Final

from agents.routing.transitions import MOVES
from agents.runtime.settings import ROOT
from schemas import ExecutionStatus

_BEGIN: Final = "<!-- made by python -m agents.routing.diagram -->\n"
_END: Final = "<!-- end -->"


def mermaid() -> str:
    """The table as a state diagram; what ends a run leads to the final node."""
    lines = ["```mermaid", "stateDiagram-v2"]
    for before, after, on in MOVES:
        start = "[*]" if before is None else before.value
        lines.append(f"    {start} --> {after.value}: {', '.join(on)}")
    lines += [f"    {status.value} --> [*]" for status in ExecutionStatus if status.is_terminal]
    return "\n".join([*lines, "```"])


def drawn_in(text: str) -> str:
    """``text`` with the diagram between its marks.

    Raises:
        ValueError: It has no marks.
    """
    before, begin, rest = text.partition(_BEGIN)
    _, end, after = rest.partition(_END)
    if not begin or not end:
        raise ValueError(f"there is no {_BEGIN.strip()} … {_END}")
    return f"{before}{begin}{mermaid()}\n{end}{after}"


def main() -> None:
    """Draw it into ARCHITECTURE.md."""
    file = ROOT / "ARCHITECTURE.md"
    file.write_text(drawn_in(file.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
