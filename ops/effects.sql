-- What the command line asks about effects. The ledger is asked, not history: nobody shall decide
-- about what history has not caught up with. Filters that are null let everything pass. There is no
-- index for it, as each step would pay for that: it reads the lane's part of the table.

-- name: effects
SELECT held.correlation_id, held.run_no, held.step_id, held.attempt, held.status,
    held.status = 'unknown' OR (held.status = 'started' AND held.lease_until < %(now)s),
    held.action, held.owner, held.lease_until, held.claimed_at, held.settled_at,
    run.document::json ->> 'tenant', held.result, held.resolution
FROM ledger.effects AS held
LEFT JOIN ledger.runs AS run USING (lane, correlation_id)
WHERE held.lane = %(lane)s
    AND (%(statuses)s::text[] IS NULL OR held.status = ANY (%(statuses)s))
    AND (
        NOT %(in_doubt)s
        OR held.status = 'unknown'
        OR (held.status = 'started' AND held.lease_until < %(now)s)
    )
    AND (%(action)s::text IS NULL OR held.action = %(action)s)
    AND (%(before)s::timestamptz IS NULL OR held.claimed_at < %(before)s)
    AND (%(tenant)s::text IS NULL OR run.document::json ->> 'tenant' = %(tenant)s)
    AND (%(correlation_id)s::uuid IS NULL OR held.correlation_id = %(correlation_id)s)
    AND (%(step_id)s::text IS NULL OR held.step_id = %(step_id)s)
ORDER BY held.claimed_at, held.correlation_id, held.run_no, held.step_id
LIMIT %(limit)s;

-- name: run
SELECT document
FROM ledger.runs
WHERE lane = %(lane)s AND correlation_id = %(correlation_id)s;
