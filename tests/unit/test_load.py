"""The load generator's parts: rates, mixes, summaries, progress."""

import io
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

import pytest
from rich.console import Console

from agents.runtime.errors import ConfigurationError, InvalidMessageError
from ops.history import End
from ops.load import parse_rate
from ops.load_mix import Mix, choose_mix, read_mix
from ops.load_progress import LoadProgress
from ops.load_summary import Latency, Summary, percentile, render_summary, summarise
from ops.render import as_text

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "rate"), [("50/s", 50), ("50", 50), ("0.5/s", 0.5), ("600 / m", 10), ("900/h", 0.25)]
)
def test_a_rate_is_a_number_in_a_time(text: str, rate: float) -> None:
    assert parse_rate(text) == rate


@pytest.mark.parametrize("text", ["", "fast", "0/s", "-1/s", "5/d", "1e9/s"])
def test_what_is_no_rate_is_refused(text: str) -> None:
    with pytest.raises(ConfigurationError, match="is no rate; say 50/s"):
        parse_rate(text)


def texts_of(mix: Mix, count: int) -> list[str]:
    return [each.request.text or "a plan" for each in mix.submissions(count)]


def write(folder: Path, content: str) -> Path:
    file = folder / "mix.yaml"
    file.write_text(content)
    return file


def test_requests_take_turns_by_weight_and_evenly(tmp_path: Path) -> None:
    mix = read_mix(write(tmp_path, "[{text: a, weight: 3}, {text: b}]"), "default")
    assert texts_of(mix, 8) == ["a", "a", "b", "a", "a", "a", "b", "a"]


def test_each_request_is_an_execution_of_its_own() -> None:
    mix = choose_mix(texts=["status of web in staging"], tenant="shop")
    sent = list(mix.submissions(5))
    assert len({each.execution_id for each in sent}) == 5
    assert len({each.message_id for each in sent}) == 5
    assert {each.request.tenant for each in sent} == {"shop"}


def test_the_default_mix_asks_for_what_the_shipped_catalogue_has() -> None:
    seen = Counter(texts_of(choose_mix(tenant="default"), 260))
    assert seen["status of checkout in staging"] == 80
    assert "restart checkout in staging and tell #releases" in seen


def test_a_mix_finds_its_plans_beside_itself(tmp_path: Path) -> None:
    (tmp_path / "plan.json").write_text('[{"step_id": "a", "action": "service.status"}]')
    mix = read_mix(write(tmp_path, "[{plan: plan.json}]"), "default")
    [entry] = mix.entries
    assert entry.request.plan is not None
    assert choose_mix(plan=tmp_path / "plan.json", tenant="default").entries[0] == entry


def test_only_one_kind_of_request_is_taken(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="one of --text, --plan and --mix"):
        choose_mix(texts=["a"], mix=tmp_path, tenant="default")


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("[", "is malformed"),
        ("[]", "at least 1 item"),
        ("text: a", "must be a list"),
        ("[{text: a, wait: 1}]", r"0\.wait"),
        ("[{text: a, weight: 0}]", r"0\.weight"),
        ("[{text: a}, {weight: 2}]", "entry 1 has neither text nor plan"),
        ("[{plan: none.yaml}]", "cannot read the plan .*none.yaml"),
    ],
)
def test_a_mix_that_cannot_be_used_is_explained(
    tmp_path: Path, content: str, complaint: str
) -> None:
    with pytest.raises(ConfigurationError, match=complaint):
        read_mix(write(tmp_path, content), "default")


def test_a_request_that_breaks_the_contract_is_refused_before_anything_is_sent() -> None:
    with pytest.raises(InvalidMessageError, match="cannot be sent"):
        choose_mix(texts=[" "], tenant="default")


@pytest.mark.parametrize(("share", "expected"), [(0.5, 50), (0.9, 90), (0.99, 99), (1.0, 100)])
def test_a_percentile_is_the_nearest_rank(share: float, expected: int) -> None:
    assert percentile(range(1, 101), share) == expected


def test_the_percentiles_of_one_are_that_one() -> None:
    assert Latency.of([2.0]) == Latency(1, 2.0, 2.0, 2.0, 2.0)


def end(seconds: float, status: str = "success", *, at: float = 0.0, reason: str = "no") -> End:
    received = NOON + timedelta(seconds=at)
    return End(uuid4(), status, None, reason, received, received + timedelta(seconds=seconds))


def summary(**values: object) -> Summary:
    given = {
        "asked_rate": 10.0,
        "sending_seconds": 1.0,
        "sent": 3,
        "unsent": {},
        "ends": [end(1), end(3), end(2, "denied", at=7.0)],
        "waited": True,
        **values,
    }
    return summarise(**given)  # type: ignore[arg-type]  # one test, one value


def test_a_summary_has_latencies_by_status_and_rates() -> None:
    of = summary()
    assert of.latency["all"] == Latency(3, 2.0, 3.0, 3.0, 3.0)
    assert of.latency["success"].count == 2
    assert of.sent_rate == 2.0
    assert of.ended_rate == pytest.approx(3 / 9)
    assert of.reasons == [("denied", "no", 1)]
    assert of.is_complete


def test_what_has_not_ended_makes_it_incomplete() -> None:
    of = summary(sent=5)
    assert of.missing == 2
    assert not of.is_complete
    assert "2 have not ended in time" in as_text(render_summary(of))


def test_what_was_not_sent_makes_it_incomplete() -> None:
    of = summary(unsent={"no confirmation": 4})
    assert not of.is_complete
    assert "4 not sent: no confirmation" in as_text(render_summary(of))


def test_without_waiting_nothing_is_missing() -> None:
    of = summary(ends=[], waited=False, sent=1)
    assert of.is_complete
    assert of.sent_rate is None
    assert as_text(render_summary(of)) == "1 sent, asked 10/s"


def test_many_reasons_are_cut_short() -> None:
    of = summary(sent=8, ends=[end(1, "failed", reason=f"reason {n}") for n in range(8)])
    assert "… and 3 other reasons" in as_text(render_summary(of))


def test_without_a_terminal_progress_is_a_line_now_and_then() -> None:
    moment = 0.0
    console = Console(file=io.StringIO(), width=100)
    with LoadProgress(console, 100, follows=True, seconds=lambda: moment) as progress:
        for moment in (0.5, 2.5, 2.6, 5.0, 9.0):  # the clock's as well
            progress.show(min(100, int(moment * 20)), 0)
    assert isinstance(console.file, io.StringIO)
    assert console.file.getvalue().splitlines() == [
        "… 50 of 100 sent, 0 ended",
        "… 100 of 100 sent, 0 ended",
    ]


def test_on_a_terminal_progress_is_bars() -> None:
    console = Console(file=io.StringIO(), width=100, force_terminal=True)
    with LoadProgress(console, 100, follows=True) as progress:
        progress.show(50, 20)
    assert isinstance(console.file, io.StringIO)
    assert "50/100" in console.file.getvalue()
    assert "20/100" in console.file.getvalue()
