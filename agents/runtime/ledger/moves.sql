-- name: read_runs
SELECT run.lane, run.correlation_id, run.version, run.status, run.is_open, run.document,
    run.next_wakeup
FROM unnest(%b::text[], %b::uuid[]) AS wanted (lane, correlation_id)
JOIN ledger.runs AS run USING (lane, correlation_id);

-- name: move_runs
-- All or nothing: where an event is known already, or somebody else has made or moved one of the
-- runs, a number falls short, the division fails, and with it the whole statement.
WITH forgotten AS (
    DELETE FROM ledger.outbox
    WHERE row_id IN (
        SELECT row_id FROM ledger.outbox
        WHERE row_id = ANY (%(sent)b::bigint[])
        FOR UPDATE SKIP LOCKED
    )
),
noted AS (
    INSERT INTO ledger.inbox (lane, event_id, correlation_id, at)
    SELECT lane, event_id, correlation_id, %(now)s
    FROM unnest(%(event_lanes)b::text[], %(event_ids)b::uuid[], %(event_runs)b::uuid[])
        AS event (lane, event_id, correlation_id)
    ON CONFLICT DO NOTHING
    RETURNING event_id
),
wanted AS (
    SELECT *
    FROM unnest(
        %(lanes)b::text[], %(runs)b::uuid[], %(versions)b::integer[], %(statuses)b::text[],
        %(are_open)b::boolean[], %(documents)b::text[], %(wakeups)b::timestamptz[],
        %(versions_before)b::integer[]
    ) AS run (lane, correlation_id, version, status, is_open, document, next_wakeup, version_before)
),
made AS (
    INSERT INTO ledger.runs
        (lane, correlation_id, version, status, is_open, document, next_wakeup, updated_at)
    SELECT lane, correlation_id, version, status, is_open, document, next_wakeup, %(now)s
    FROM wanted
    WHERE version_before IS NULL
    ON CONFLICT DO NOTHING
    RETURNING correlation_id
),
moved AS (
    UPDATE ledger.runs AS run
    SET version = wanted.version, status = wanted.status, is_open = wanted.is_open,
        document = wanted.document, next_wakeup = wanted.next_wakeup, updated_at = %(now)s
    FROM wanted
    WHERE run.lane = wanted.lane
        AND run.correlation_id = wanted.correlation_id
        AND run.version = wanted.version_before
    RETURNING run.correlation_id
),
held AS (
    SELECT held.row_id, lane, correlation_id, held.message
    FROM wanted
    JOIN ledger.outbox AS held USING (lane, correlation_id)
    WHERE held.row_id <> ALL (%(sent)b::bigint[])
),
emitted AS (
    INSERT INTO ledger.outbox (lane, correlation_id, event_id, message, created_at)
    SELECT lane, correlation_id, event_id, message, %(now)s
    FROM unnest(
        %(row_lanes)b::text[], %(row_runs)b::uuid[], %(row_events)b::uuid[], %(messages)b::text[]
    ) AS row (lane, correlation_id, event_id, message)
    RETURNING row_id
)
SELECT row.row_id, row.lane, row.correlation_id, row.message, verified
FROM (
    SELECT
        1 / (
            (SELECT count(*) FROM noted) = cardinality(%(event_ids)b::uuid[])
            AND (SELECT count(*) FROM made) + (SELECT count(*) FROM moved)
                = cardinality(%(runs)b::uuid[])
        )::integer
) AS written (verified)
LEFT JOIN (
    SELECT row_id, lane, correlation_id, message FROM held
    UNION ALL
    SELECT row_id, NULL, NULL, NULL FROM emitted
) AS row ON true
ORDER BY row.row_id;
