"""What a load came to: how many ended how, how long they took, what went wrong."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from math import ceil
from typing import Any, Final

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from ops import render
from ops.history import End

_KEPT_REASONS: Final = 50
_SHOWN_REASONS: Final = 5
ALL: Final = "all"


@dataclass(frozen=True, slots=True)
class Latency:
    """How long some executions took from the broker's receipt to their end, in seconds."""

    count: int
    p50: float
    p90: float
    p99: float
    max: float

    @classmethod
    def of(cls, seconds: Iterable[float]) -> "Latency":
        """Of at least one execution."""
        ordered = sorted(seconds)
        p50, p90, p99 = (percentile(ordered, share) for share in (0.5, 0.9, 0.99))
        return cls(len(ordered), p50, p90, p99, ordered[-1])


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """A load that is over."""

    asked_rate: float
    """Requests a second that were asked for."""
    sent_rate: float | None
    """Requests a second that the broker took; ``None`` where there was no more than one."""
    ended_rate: float | None
    """Executions a second from the first receipt to the last end."""
    sent: int
    unsent: Mapping[str, int]
    """Requests that the broker did not confirm, by reason."""
    latency: Mapping[str, Latency]
    """By status; ``all`` of them together first."""
    reasons: Sequence[tuple[str, str, int]]
    """Status, reason and count of what did not succeed, the most frequent first."""
    missing: int
    """Executions that have not ended in time; 0 if nobody waited."""
    waited: bool

    @property
    def is_complete(self) -> bool:
        """Whether all was sent and, where somebody waited, has ended."""
        return not self.unsent and not self.missing

    def as_json(self) -> dict[str, Any]:
        """For a program."""
        return {
            **asdict(self),
            "reasons": [
                {"status": status, "reason": reason, "count": count}
                for status, reason, count in self.reasons
            ],
            "is_complete": self.is_complete,
        }


def percentile(ordered: Sequence[float], share: float) -> float:
    """The smallest of ``ordered`` that at least ``share`` of them do not exceed (nearest rank)."""
    return ordered[max(0, ceil(share * len(ordered)) - 1)]


def summarise(
    *,
    asked_rate: float,
    sending_seconds: float,
    sent: int,
    unsent: Mapping[str, int],
    ends: Sequence[End],
    waited: bool,
) -> Summary:
    """Put together what a load came to."""
    by_status: dict[str, list[float]] = {ALL: [end.seconds for end in ends]} if ends else {}
    for end in ends:
        by_status.setdefault(end.status, []).append(end.seconds)
    reasons = Counter(
        (end.status, end.reason or end.code or "no reason given")
        for end in ends
        if end.status != "success"
    )
    span = 0.0
    if ends:
        first = min(end.received_at for end in ends)
        span = (max(end.finished_at for end in ends) - first).total_seconds()
    return Summary(
        asked_rate=asked_rate,
        # n requests have n - 1 gaps between them.
        sent_rate=(sent - 1) / sending_seconds if sent > 1 and sending_seconds > 0 else None,
        ended_rate=len(ends) / span if span > 0 else None,
        sent=sent,
        unsent=dict(unsent),
        latency={status: Latency.of(seconds) for status, seconds in by_status.items()},
        reasons=[(*why, count) for why, count in reasons.most_common(_KEPT_REASONS)],
        missing=sent - len(ends) if waited else 0,
        waited=waited,
    )


def render_summary(summary: Summary) -> RenderableType:
    """For a person."""
    parts: list[RenderableType] = [_rates(summary)]
    if summary.latency:
        parts.append(_latencies(summary.latency))
    for status, reason, count in summary.reasons[:_SHOWN_REASONS]:
        parts.append(Text.assemble(f"{count} ", render.status_text(status), f": {reason}"))
    if len(summary.reasons) > _SHOWN_REASONS:
        parts.append(Text(f"… and {len(summary.reasons) - _SHOWN_REASONS} other reasons", "dim"))
    for reason, count in summary.unsent.items():
        parts.append(Text(f"{count} not sent: {reason}", "bold red"))
    if summary.missing:
        parts.append(Text(f"{summary.missing} have not ended in time", "bold red"))
    return Group(*parts)


def _rates(summary: Summary) -> Text:
    text = Text(f"{summary.sent} sent, asked {_rate(summary.asked_rate)}")
    if summary.sent_rate is not None:
        text.append(f", achieved {_rate(summary.sent_rate)}")
    if summary.ended_rate is not None:
        text.append(f"; ended at {_rate(summary.ended_rate)}")
    return text


def _rate(rate: float) -> str:
    return f"{rate:.3g}/s" if rate < 100 else f"{rate:.0f}/s"  # noqa: PLR2004  # three digits


def _latencies(latency: Mapping[str, Latency]) -> Table:
    table = Table(
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        header_style="dim",
        title=Text("From receipt to end", "bold"),
        title_justify="left",
    )
    table.add_column("status")
    for column in ("executions", "p50", "p90", "p99", "max"):
        table.add_column(column, justify="right")
    for status, of in latency.items():
        name = Text(ALL) if status == ALL else render.status_text(status)
        times = (render.duration(seconds) for seconds in (of.p50, of.p90, of.p99, of.max))
        table.add_row(name, str(of.count), *times)
    return table
