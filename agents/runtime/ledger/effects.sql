-- name: lock_effects
SELECT held.lane, held.correlation_id, held.run_no, held.step_id,
    held.attempt, held.status, held.owner, held.lease_until, held.plan_id, held.plan_hash,
    held.action, held.result, held.claimed_at, held.settled_at, held.resolution
FROM unnest(%b::text[], %b::uuid[], %b::integer[], %b::text[])
    AS wanted (lane, correlation_id, run_no, step_id)
JOIN ledger.effects AS held USING (lane, correlation_id, run_no, step_id)
ORDER BY held.lane, held.correlation_id, held.run_no, held.step_id
FOR UPDATE OF held;

-- name: insert_effects
INSERT INTO ledger.effects
    (lane, correlation_id, run_no, step_id, attempt, status, owner, lease_until, plan_id,
     plan_hash, action, result, claimed_at, settled_at, resolution)
SELECT *
FROM unnest(
    %b::text[], %b::uuid[], %b::integer[], %b::text[], %b::integer[], %b::text[], %b::text[],
    %b::timestamptz[], %b::uuid[], %b::text[], %b::text[], %b::text[], %b::timestamptz[],
    %b::timestamptz[], %b::text[]
)
ON CONFLICT DO NOTHING;

-- name: update_effects
-- The rows are locked: what they were compared with still stands.
UPDATE ledger.effects AS held
SET attempt = moved.attempt, status = moved.status, owner = moved.owner,
    lease_until = moved.lease_until, plan_id = moved.plan_id, plan_hash = moved.plan_hash,
    action = moved.action, result = moved.result, claimed_at = moved.claimed_at,
    settled_at = moved.settled_at, resolution = moved.resolution
FROM unnest(
    %b::text[], %b::uuid[], %b::integer[], %b::text[], %b::integer[], %b::text[], %b::text[],
    %b::timestamptz[], %b::uuid[], %b::text[], %b::text[], %b::text[], %b::timestamptz[],
    %b::timestamptz[], %b::text[]
) AS moved (
    lane, correlation_id, run_no, step_id, attempt, status, owner, lease_until, plan_id,
    plan_hash, action, result, claimed_at, settled_at, resolution
)
WHERE held.lane = moved.lane
    AND held.correlation_id = moved.correlation_id
    AND held.run_no = moved.run_no
    AND held.step_id = moved.step_id;

-- name: act_at_once
-- Claims of what nobody has claimed, and outcomes of who still holds the effect. What is not
-- among the answers was neither, and is left as it is.
WITH claimed AS (
    INSERT INTO ledger.effects
        (lane, correlation_id, run_no, step_id, attempt, status, owner, lease_until, plan_id,
         plan_hash, action, claimed_at)
    SELECT lane, correlation_id, run_no, step_id, attempt, 'started', owner, lease_until, plan_id,
        plan_hash, action, claimed_at
    FROM unnest(
        %b::text[], %b::uuid[], %b::integer[], %b::text[], %b::integer[], %b::text[],
        %b::timestamptz[], %b::uuid[], %b::text[], %b::text[], %b::timestamptz[]
    ) AS claim (
        lane, correlation_id, run_no, step_id, attempt, owner, lease_until, plan_id, plan_hash,
        action, claimed_at
    )
    ON CONFLICT DO NOTHING
    RETURNING lane, correlation_id, run_no, step_id
),
settled AS (
    UPDATE ledger.effects AS held
    SET status = outcome.status, result = outcome.result, settled_at = outcome.settled_at
    FROM unnest(
        %b::text[], %b::uuid[], %b::integer[], %b::text[], %b::integer[], %b::text[], %b::text[],
        %b::text[], %b::timestamptz[]
    ) AS outcome (
        lane, correlation_id, run_no, step_id, attempt, owner, status, result, settled_at
    )
    WHERE held.lane = outcome.lane
        AND held.correlation_id = outcome.correlation_id
        AND held.run_no = outcome.run_no
        AND held.step_id = outcome.step_id
        AND held.status = 'started'
        AND held.attempt = outcome.attempt
        AND held.owner = outcome.owner
    RETURNING held.lane, held.correlation_id, held.run_no, held.step_id
)
SELECT lane, correlation_id, run_no, step_id FROM claimed
UNION ALL
SELECT lane, correlation_id, run_no, step_id FROM settled;
