-- Locks are taken in one order by everybody: reservations by key, then what was spent by key.

-- name: limited_tenants
SELECT DISTINCT lane, tenant FROM ledger.budgets;

-- name: budgets_of
SELECT lane, tenant, per, cap
FROM unnest(%b::text[], %b::text[]) AS wanted (lane, tenant)
JOIN ledger.budgets USING (lane, tenant);

-- name: lock_reservations
-- All plans of the executions: what the others have taken counts for the execution's budget.
SELECT held.lane, held.correlation_id, held.plan_hash, held.tenant, held.periods, held.amount,
    held.is_open, held.reserved_at, held.spent
FROM unnest(%b::text[], %b::uuid[]) AS wanted (lane, correlation_id)
JOIN ledger.reservations AS held USING (lane, correlation_id)
ORDER BY held.lane, held.correlation_id, held.plan_hash
FOR UPDATE OF held;

-- name: insert_spending
INSERT INTO ledger.spending (lane, tenant, period, spent, reserved)
SELECT lane, tenant, period, 0, 0
FROM unnest(%b::text[], %b::text[], %b::text[]) AS wanted (lane, tenant, period)
ON CONFLICT DO NOTHING;

-- name: lock_spending
SELECT held.lane, held.tenant, held.period, held.spent, held.reserved
FROM unnest(%b::text[], %b::text[], %b::text[]) AS wanted (lane, tenant, period)
JOIN ledger.spending AS held USING (lane, tenant, period)
ORDER BY held.lane, held.tenant, held.period
FOR UPDATE OF held;

-- name: reserve_spending
-- Guarded although the rows are locked: no mistake of the code before it can pass a cap.
UPDATE ledger.spending AS held
SET reserved = held.reserved + taken.amount
FROM unnest(%b::text[], %b::text[], %b::text[], %b::numeric[], %b::numeric[])
    AS taken (lane, tenant, period, amount, cap)
WHERE held.lane = taken.lane
    AND held.tenant = taken.tenant
    AND held.period = taken.period
    AND held.spent + held.reserved + taken.amount <= taken.cap;

-- name: insert_reservations
-- One that was settled is opened again when its plan is to run once more.
INSERT INTO ledger.reservations AS held
    (lane, correlation_id, plan_hash, tenant, periods, amount, is_open, reserved_at, spent)
SELECT lane, correlation_id, plan_hash, tenant, string_to_array(periods, ' '), amount, true, at, 0
FROM unnest(
    %b::text[], %b::uuid[], %b::text[], %b::text[], %b::text[], %b::numeric[], %b::timestamptz[]
) AS made (lane, correlation_id, plan_hash, tenant, periods, amount, at)
ON CONFLICT (lane, correlation_id, plan_hash) DO UPDATE
SET tenant = excluded.tenant, periods = excluded.periods, amount = excluded.amount, is_open = true,
    reserved_at = excluded.reserved_at
WHERE NOT held.is_open;

-- name: settle_reservations
WITH ended AS (
    SELECT held.lane, held.correlation_id, held.plan_hash, held.tenant, held.periods,
        CASE WHEN held.is_open THEN held.amount ELSE 0 END AS released, run.actual
    FROM unnest(%b::text[], %b::uuid[], %b::text[], %b::numeric[])
        AS run (lane, correlation_id, plan_hash, actual)
    JOIN ledger.reservations AS held USING (lane, correlation_id, plan_hash)
    ORDER BY held.lane, held.correlation_id, held.plan_hash
    FOR UPDATE OF held
),
closed AS (
    UPDATE ledger.reservations AS held
    SET is_open = false, spent = held.spent + ended.actual
    FROM ended
    WHERE held.lane = ended.lane
        AND held.correlation_id = ended.correlation_id
        AND held.plan_hash = ended.plan_hash
),
moved AS (
    SELECT lane, tenant, period, sum(released) AS released, sum(actual) AS actual
    FROM ended, unnest(periods) AS period
    GROUP BY lane, tenant, period
),
locked AS (
    SELECT lane, tenant, period, moved.released, moved.actual
    FROM moved
    JOIN ledger.spending AS held USING (lane, tenant, period)
    ORDER BY lane, tenant, period
    FOR UPDATE OF held
)
UPDATE ledger.spending AS held
SET spent = held.spent + locked.actual, reserved = held.reserved - locked.released
FROM locked
WHERE held.lane = locked.lane
    AND held.tenant = locked.tenant
    AND held.period = locked.period;

-- name: lost_reservations
SELECT held.lane, held.correlation_id, held.plan_hash
FROM ledger.reservations AS held
LEFT JOIN ledger.runs AS run USING (lane, correlation_id)
WHERE held.lane = %(lane)s
    AND held.is_open
    AND CASE
        WHEN run.version IS NULL THEN held.reserved_at < %(lost_before)s
        ELSE NOT run.is_open AND held.reserved_at < %(ended_before)s
    END
ORDER BY held.correlation_id, held.plan_hash
LIMIT %(limit)s
FOR UPDATE OF held SKIP LOCKED;

-- name: upsert_budget
INSERT INTO ledger.budgets (lane, tenant, per, cap, set_by, set_at)
VALUES (%(lane)s, %(tenant)s, %(per)s, %(cap)s, %(set_by)s, %(now)s)
ON CONFLICT (lane, tenant, per) DO UPDATE
SET cap = excluded.cap, set_by = excluded.set_by, set_at = excluded.set_at;

-- name: delete_budget
DELETE FROM ledger.budgets WHERE lane = %(lane)s AND tenant = %(tenant)s AND per = %(per)s;

-- name: budget_uses
SELECT budget.tenant, budget.per, budget.cap, coalesce(used.spent, 0), coalesce(used.reserved, 0)
FROM ledger.budgets AS budget
LEFT JOIN ledger.spending AS used
    ON used.lane = budget.lane
    AND used.tenant = budget.tenant
    AND used.period = CASE budget.per WHEN 'day' THEN %(day)s WHEN 'month' THEN %(month)s END
WHERE budget.lane = %(lane)s
ORDER BY budget.tenant;
