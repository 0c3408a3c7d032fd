-- name: delete_outbox
-- A row that somebody else is deleting is left to them, so nobody ever waits here.
DELETE FROM ledger.outbox
WHERE row_id IN (
    SELECT row_id FROM ledger.outbox WHERE row_id = ANY (%b::bigint[]) FOR UPDATE SKIP LOCKED
);

-- name: insert_inbox
-- Comes in the order of the ids: of two transactions with the same event the second one waits
-- here until the first has ended.
INSERT INTO ledger.inbox (lane, event_id, correlation_id, at)
SELECT lane, event_id, correlation_id, %s
FROM unnest(%b::text[], %b::uuid[], %b::uuid[]) AS event (lane, event_id, correlation_id)
ON CONFLICT DO NOTHING
RETURNING lane, event_id;

-- name: lock_runs
SELECT run.lane, run.correlation_id, run.version, run.status, run.is_open, run.document,
    run.next_wakeup
FROM unnest(%b::text[], %b::uuid[]) AS wanted (lane, correlation_id)
JOIN ledger.runs AS run USING (lane, correlation_id)
ORDER BY run.lane, run.correlation_id
FOR UPDATE OF run;

-- name: run
SELECT lane, correlation_id, version, status, is_open, document, next_wakeup
FROM ledger.runs
WHERE lane = %s AND correlation_id = %s;

-- name: outbox_of_runs
-- Asked when the runs are locked, so nobody is adding rows meanwhile.
SELECT held.row_id, held.lane, held.correlation_id, held.message
FROM unnest(%b::text[], %b::uuid[]) AS wanted (lane, correlation_id)
JOIN ledger.outbox AS held USING (lane, correlation_id)
ORDER BY held.row_id;

-- name: seen_events
SELECT seen.lane, seen.event_id, seen.refusal_code, seen.refusal_reason
FROM unnest(%b::text[], %b::uuid[]) AS wanted (lane, event_id)
JOIN ledger.inbox AS seen USING (lane, event_id);

-- name: forget_events
DELETE FROM ledger.inbox AS seen
USING unnest(%b::text[], %b::uuid[]) AS failed (lane, event_id)
WHERE seen.lane = failed.lane AND seen.event_id = failed.event_id;

-- name: refuse_events
UPDATE ledger.inbox AS seen
SET refusal_code = refused.code, refusal_reason = refused.reason
FROM unnest(%b::text[], %b::uuid[], %b::text[], %b::text[])
    AS refused (lane, event_id, code, reason)
WHERE seen.lane = refused.lane AND seen.event_id = refused.event_id;

-- name: insert_runs
INSERT INTO ledger.runs
    (lane, correlation_id, version, status, is_open, document, next_wakeup, updated_at)
SELECT lane, correlation_id, version, status, is_open, document, next_wakeup, %s
FROM unnest(
    %b::text[], %b::uuid[], %b::integer[], %b::text[], %b::boolean[], %b::text[],
    %b::timestamptz[]
) AS run (lane, correlation_id, version, status, is_open, document, next_wakeup)
ON CONFLICT DO NOTHING;

-- name: update_runs
UPDATE ledger.runs AS run
SET version = moved.version, status = moved.status, is_open = moved.is_open,
    document = moved.document, next_wakeup = moved.next_wakeup, updated_at = %s
FROM unnest(
    %b::text[], %b::uuid[], %b::integer[], %b::text[], %b::boolean[], %b::text[],
    %b::timestamptz[], %b::integer[]
) AS moved
    (lane, correlation_id, version, status, is_open, document, next_wakeup, version_before)
WHERE run.lane = moved.lane
    AND run.correlation_id = moved.correlation_id
    AND run.version = moved.version_before;

-- name: insert_outbox
INSERT INTO ledger.outbox (lane, correlation_id, event_id, message, created_at)
SELECT lane, correlation_id, event_id, message, %s
FROM unnest(%b::text[], %b::uuid[], %b::uuid[], %b::text[])
    AS emitted (lane, correlation_id, event_id, message)
RETURNING row_id;

-- name: unsent
SELECT row_id, message
FROM ledger.outbox
WHERE lane = %s AND created_at < %s
ORDER BY row_id
LIMIT %s;

-- name: due
SELECT lane, correlation_id, version, status, is_open, document, next_wakeup
FROM ledger.runs
WHERE lane = %s AND next_wakeup <= %s AND is_open
ORDER BY next_wakeup
LIMIT %s;

-- name: open_runs
SELECT lane, correlation_id, version, status, is_open, document, next_wakeup
FROM ledger.runs
WHERE lane = %(lane)s
    AND is_open
    AND correlation_id > coalesce(%(after)s, '00000000-0000-0000-0000-000000000000'::uuid)
ORDER BY correlation_id
LIMIT %(limit)s;

-- name: stopping
SELECT run.lane, run.correlation_id
FROM unnest(%b::text[], %b::uuid[]) AS wanted (lane, correlation_id)
JOIN ledger.runs AS run USING (lane, correlation_id)
WHERE run.status = 'cancelling';
