-- name: insert_verdicts
INSERT INTO ledger.verdicts
    (lane, plan_id, correlation_id, plan_hash, decision, evaluation, message, recorded_at)
SELECT lane, plan_id, correlation_id, plan_hash, decision, evaluation, message, %s
FROM unnest(
    %b::text[], %b::uuid[], %b::uuid[], %b::text[], %b::text[], %b::integer[], %b::text[]
) AS verdict (lane, plan_id, correlation_id, plan_hash, decision, evaluation, message)
ON CONFLICT DO NOTHING
RETURNING lane, plan_id;

-- name: recorded_verdicts
SELECT recorded.lane, recorded.plan_id, recorded.message
FROM unnest(%b::text[], %b::uuid[]) AS wanted (lane, plan_id)
JOIN ledger.verdicts AS recorded USING (lane, plan_id);

-- name: approvals
-- A verdict is as large as its plan, and is asked for by every step of it. The run's number is taken
-- from the text of its document, as one that holds U+0000 cannot be read as JSON here: it stands among
-- the first fields, and in a string its quotes would be escaped.
SELECT recorded.lane, recorded.correlation_id, recorded.plan_id, recorded.plan_hash,
    coalesce(run.status NOT IN ('running', 'paused'), false),
    substring(run.document FROM '"run_no": ?([0-9]+)')::integer,
    CASE WHEN recorded.plan_id <> ALL (%b::uuid[]) THEN recorded.message END
FROM unnest(%b::text[], %b::uuid[], %b::uuid[]) AS wanted (lane, correlation_id, plan_id)
JOIN ledger.verdicts AS recorded USING (lane, plan_id, correlation_id)
LEFT JOIN ledger.runs AS run USING (lane, correlation_id)
WHERE recorded.decision = 'approved';
