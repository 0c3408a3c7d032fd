"""How runs end that cannot go on: time is over, the broker is gone, the router fails. Pure."""

from datetime import datetime

from agents.routing import approvals
from agents.routing.attempts import take, take_all
from agents.routing.beginnings import awaits_its_request, begin
from agents.routing.deadlines import DEADLINE_EXCEEDED, Limits, is_over_time, unanswered
from agents.routing.events import Answer, GivenUp, Moved
from agents.routing.failing import skip_pending
from agents.routing.progress import next_version, progress
from agents.routing.run import Run
from schemas import ExecutionStatus, Failure, Outcome, StepResult, StepState, Verdict

_HAS_BEGUN = (ExecutionStatus.RUNNING, ExecutionStatus.PAUSED, ExecutionStatus.CANCELLING)


def wake(run: Run, now: datetime, jitter: float, limits: Limits) -> Answer:
    """Do what is due: attempts again, or the end of what takes too long."""
    if not run.is_open:
        return None
    if expired := approvals.expire(run, now):
        return progress(skip_pending(expired), run.cause, now)
    before = run
    run = take_all(run, list(unanswered(run, now, limits)), now, jitter)
    if is_over_time(run, now, limits):
        run = _expired(run)
    is_retry_due = any(due <= now for due in run.retry_at.values())
    if run is before and not (is_retry_due and run.status is ExecutionStatus.RUNNING):
        return None
    return progress(run, run.cause, now)


def lose(run: Run, now: datetime, broker: str) -> Answer:
    """End a run whose broker is gone with its topics; what was in flight may have been done."""
    if not run.is_open or run.broker_id == broker:
        return None  # it has ended, or has been begun anew on the broker that is there
    reason = "The broker that carried this execution is gone with its topics."
    failure = Failure(code="broker_reset", reason=f"nobody can answer any more. {reason}")
    run = skip_pending(_cut_off(run.remembering_why(), failure, now, otherwise="skipped")).moved(
        ExecutionStatus.FAILED, code="broker_reset", reason=f"{reason} Send it again."
    )
    return Moved(next_version(run, run.cause, now))


def give_up(run: Run | None, event: GivenUp, now: datetime, jitter: float, broker: str) -> Answer:
    """End what the router cannot handle: a step where it is about one, else the execution."""
    message, failure = event.message, Failure(code=event.code, reason=event.reason)
    match None if message is None else message.payload:
        case None:
            return None if run is None or not run.is_open else _abandon(run, failure, now)
        case StepResult() as result if run is not None and message is not None:
            # What is known of its effect stays known.
            status = "unknown" if result.status == "unknown" else "failed"
            told = result.model_copy(update={"status": status, "output": {}, "failure": failure})
            if result.status == "success":
                run = run.replace(done_anyway=(*run.done_anyway, result.step_id))
            return take(run, message, told, now, jitter)
        case Verdict() | Outcome() as judged if message is not None and (
            run is None or awaits_its_request(run)
        ):
            about = judged.plan if isinstance(judged, Verdict) else judged
            begun = run or begin(message, now, broker)
            named = begun.replace(
                request_id=judged.request_id, title=about.title, requester=about.requester
            )
            failed = named.moved(ExecutionStatus.FAILED, code=failure.code, reason=failure.reason)
            return Moved(next_version(failed, message.message_id, now))
        case Verdict() as verdict if run is not None and approvals.is_expected(run, verdict):
            return _abandon(run, failure, now)
        case _:  # nobody waits for it
            return None


def _expired(run: Run) -> Run:
    if awaits_its_request(run):
        reason = f"{run.reason}; no request came under this correlation id"
        return run.moved(ExecutionStatus.CANCELLED, code=run.code, reason=reason[:10_000])
    # Where something is in flight or in doubt, that decides how the run ends.
    has_begun = run.status in _HAS_BEGUN
    status = ExecutionStatus.CANCELLING if has_begun else ExecutionStatus.EXPIRED
    reason = "it took longer than an execution may"
    return skip_pending(run).moved(status, code=DEADLINE_EXCEEDED, reason=reason)


def _abandon(run: Run, failure: Failure, now: datetime) -> Moved:
    """End a run at once, whatever is in flight."""
    run = skip_pending(_cut_off(run.remembering_why(), failure, now, otherwise="failed"))
    in_doubt = any(step.status == "unknown" for step in run.steps)
    status = ExecutionStatus.UNKNOWN if in_doubt else ExecutionStatus.FAILED
    return Moved(
        next_version(run.moved(status, code=failure.code, reason=failure.reason), run.cause, now)
    )


def _cut_off(run: Run, failure: Failure, now: datetime, *, otherwise: str) -> Run:
    """The run without what is in flight: whether an effect has happened is not known then."""

    def cut_off(step: StepState, effect: str) -> StepState:
        status = "unknown" if effect == "effect" else otherwise
        return step.replace(status=status, failure=failure, finished_at=now)

    steps = tuple(
        cut_off(step, planned.effect) if step.status == "running" else step
        for planned, step in run.in_pairs()
    )
    return run.replace(steps=steps)
