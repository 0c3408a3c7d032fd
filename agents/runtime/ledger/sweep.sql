-- Deleting what executions left behind that ended long ago.
--
-- The inbox leads: every run has been moved by events, whose entries are found in the order of
-- time. A batch takes the oldest entries that nothing holds back; with the first entry of an
-- execution goes its run, so that its later entries, and its verdicts, are then found without one.

-- name: old_events
-- Scalar subqueries rather than NOT EXISTS: those could become joins that read whole tables, where
-- a probe of an index for each entry is all it takes.
SELECT seen.event_id, seen.correlation_id
FROM ledger.inbox AS seen
WHERE seen.lane = %(lane)s
    AND seen.at < %(before)s
    AND (
        SELECT run.is_open OR run.status = 'unknown' OR run.updated_at >= %(before)s
        FROM ledger.runs AS run
        WHERE run.lane = seen.lane AND run.correlation_id = seen.correlation_id
    ) IS NOT TRUE
    AND (
        SELECT true
        FROM ledger.effects AS effect
        WHERE effect.lane = seen.lane
            AND effect.correlation_id = seen.correlation_id
            AND effect.status IN ('started', 'unknown')
        LIMIT 1
    ) IS NULL
    AND (
        SELECT true
        FROM ledger.outbox AS held
        WHERE held.lane = seen.lane AND held.correlation_id = seen.correlation_id
        LIMIT 1
    ) IS NULL
ORDER BY seen.at
LIMIT %(limit)s
FOR UPDATE OF seen SKIP LOCKED;

-- name: delete_runs
-- Looked at once more under the lock: a run that somebody is moving, or has moved, stays.
DELETE FROM ledger.runs AS run
USING (
    SELECT lane, correlation_id
    FROM ledger.runs
    WHERE lane = %(lane)s
        AND correlation_id = ANY (%(runs)s)
        AND NOT is_open
        AND status <> 'unknown'
        AND updated_at < %(before)s
    ORDER BY correlation_id
    FOR UPDATE SKIP LOCKED
) AS old
WHERE run.lane = old.lane AND run.correlation_id = old.correlation_id
RETURNING run.correlation_id;

-- name: delete_effects
DELETE FROM ledger.effects WHERE lane = %(lane)s AND correlation_id = ANY (%(runs)s);

-- name: delete_events
DELETE FROM ledger.inbox AS seen
WHERE seen.lane = %(lane)s
    AND seen.event_id = ANY (%(events)s)
    AND NOT EXISTS (
        SELECT FROM ledger.runs AS run
        WHERE run.lane = seen.lane AND run.correlation_id = seen.correlation_id
    );

-- name: delete_verdicts
-- Asked when no old entry is left, so that few of the old verdicts still have a run.
DELETE FROM ledger.verdicts AS verdict
USING (
    SELECT recorded.lane, recorded.plan_id
    FROM ledger.verdicts AS recorded
    WHERE recorded.lane = %(lane)s
        AND recorded.recorded_at < %(before)s
        AND (
            SELECT true
            FROM ledger.runs AS run
            WHERE run.lane = recorded.lane AND run.correlation_id = recorded.correlation_id
        ) IS NULL
    ORDER BY recorded.recorded_at
    LIMIT %(limit)s
    FOR UPDATE OF recorded SKIP LOCKED
) AS old
WHERE verdict.lane = old.lane AND verdict.plan_id = old.plan_id;

-- name: delete_redrives
-- As long as history has the dead letter, what somebody did about it says whether it is settled.
-- People make these rows, so there are few: no index finds the old ones.
DELETE FROM ledger.redrives
WHERE ctid = ANY (
    ARRAY(
        SELECT mark.ctid
        FROM ledger.redrives AS mark
        WHERE mark.lane = %(lane)s
            AND mark.requested_at < %(before)s
            AND NOT EXISTS (
                SELECT FROM history.dead_letters AS letter
                WHERE letter.lane = mark.lane
                    AND letter.origin_topic_id = mark.origin_topic_id
                    AND letter.origin_partition = mark.origin_partition
                    AND letter.origin_offset = mark.origin_offset
                    AND letter.role = mark.role
            )
        LIMIT %(limit)s
        FOR UPDATE OF mark SKIP LOCKED
    )
);

-- name: delete_purges
DELETE FROM ledger.purges
WHERE ctid = ANY (
    ARRAY(
        SELECT mark.ctid
        FROM ledger.purges AS mark
        WHERE mark.lane = %(lane)s
            AND mark.purged_at < %(before)s
            AND NOT EXISTS (
                SELECT FROM history.dead_letters AS letter
                WHERE letter.lane = mark.lane
                    AND letter.origin_topic_id = mark.origin_topic_id
                    AND letter.origin_partition = mark.origin_partition
                    AND letter.origin_offset = mark.origin_offset
                    AND letter.role = mark.role
            )
        LIMIT %(limit)s
        FOR UPDATE OF mark SKIP LOCKED
    )
);

-- name: delete_reservations
DELETE FROM ledger.reservations AS held
USING (
    SELECT settled.lane, settled.correlation_id, settled.plan_hash
    FROM ledger.reservations AS settled
    WHERE settled.lane = %(lane)s
        AND settled.reserved_at < %(before)s
        AND NOT settled.is_open
        AND (
            SELECT true
            FROM ledger.runs AS run
            WHERE run.lane = settled.lane AND run.correlation_id = settled.correlation_id
        ) IS NULL
    LIMIT %(limit)s
    FOR UPDATE OF settled SKIP LOCKED
) AS old
WHERE held.lane = old.lane
    AND held.correlation_id = old.correlation_id
    AND held.plan_hash = old.plan_hash;

-- name: delete_spending
-- As text, "2026-10" and "2026-10-31" come before "2026-11", and "2026-11-01" behind it.
DELETE FROM ledger.spending
WHERE lane = %(lane)s
    AND period < to_char(%(before)s AT TIME ZONE 'UTC', 'YYYY-MM')
    AND reserved = 0;

-- name: count_old
-- What there is to delete, and how many ended executions are too old but must stay. Reads whole
-- tables: for a person who asks, not for a role.
WITH old AS (
    SELECT
        run.correlation_id,
        run.status <> 'unknown'
        AND NOT EXISTS (
            SELECT FROM ledger.effects AS effect
            WHERE effect.lane = run.lane
                AND effect.correlation_id = run.correlation_id
                AND effect.status IN ('started', 'unknown')
        )
        AND NOT EXISTS (
            SELECT FROM ledger.outbox AS held
            WHERE held.lane = run.lane AND held.correlation_id = run.correlation_id
        ) AS goes
    FROM ledger.runs AS run
    WHERE run.lane = %(lane)s AND NOT run.is_open AND run.updated_at < %(before)s
)
SELECT
    (SELECT count(*) FROM old WHERE goes),
    (
        SELECT count(*) FROM ledger.inbox AS seen
        WHERE seen.lane = %(lane)s
            AND seen.at < %(before)s
            AND (
                seen.correlation_id IN (SELECT correlation_id FROM old WHERE goes)
                OR NOT EXISTS (
                    SELECT FROM ledger.runs AS run
                    WHERE run.lane = seen.lane AND run.correlation_id = seen.correlation_id
                )
            )
    ),
    (
        SELECT count(*) FROM ledger.verdicts AS recorded
        WHERE recorded.lane = %(lane)s
            AND recorded.recorded_at < %(before)s
            AND (
                recorded.correlation_id IN (SELECT correlation_id FROM old WHERE goes)
                OR NOT EXISTS (
                    SELECT FROM ledger.runs AS run
                    WHERE run.lane = recorded.lane
                        AND run.correlation_id = recorded.correlation_id
                )
            )
    ),
    (
        SELECT count(*) FROM ledger.effects AS effect
        WHERE effect.lane = %(lane)s
            AND effect.correlation_id IN (SELECT correlation_id FROM old WHERE goes)
    ),
    (
        SELECT count(*) FROM ledger.redrives AS mark
        WHERE mark.lane = %(lane)s
            AND mark.requested_at < %(before)s
            AND NOT EXISTS (
                SELECT FROM history.dead_letters AS letter
                WHERE letter.lane = mark.lane
                    AND letter.origin_topic_id = mark.origin_topic_id
                    AND letter.origin_partition = mark.origin_partition
                    AND letter.origin_offset = mark.origin_offset
                    AND letter.role = mark.role
            )
    ),
    (
        SELECT count(*) FROM ledger.purges AS mark
        WHERE mark.lane = %(lane)s
            AND mark.purged_at < %(before)s
            AND NOT EXISTS (
                SELECT FROM history.dead_letters AS letter
                WHERE letter.lane = mark.lane
                    AND letter.origin_topic_id = mark.origin_topic_id
                    AND letter.origin_partition = mark.origin_partition
                    AND letter.origin_offset = mark.origin_offset
                    AND letter.role = mark.role
            )
    ),
    (
        SELECT count(*) FROM ledger.reservations AS held
        WHERE held.lane = %(lane)s
            AND held.reserved_at < %(before)s
            AND NOT held.is_open
            AND (
                held.correlation_id IN (SELECT correlation_id FROM old WHERE goes)
                OR NOT EXISTS (
                    SELECT FROM ledger.runs AS run
                    WHERE run.lane = held.lane AND run.correlation_id = held.correlation_id
                )
            )
    )
    + (
        SELECT count(*) FROM ledger.spending
        WHERE lane = %(lane)s
            AND period < to_char(%(before)s AT TIME ZONE 'UTC', 'YYYY-MM')
            AND reserved = 0
    ),
    (SELECT count(*) FROM old WHERE NOT goes);
