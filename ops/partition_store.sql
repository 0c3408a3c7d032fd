-- What care for history's daily partitions and its old executions asks of Postgres.

-- name: list_partitions
-- Row counts are estimates: of the last ANALYZE, or of the statistics since, whichever is greater.
SELECT
    child.relname,
    pg_get_expr(child.relpartbound, child.oid),
    pg_total_relation_size(child.oid),
    greatest(child.reltuples::bigint, pg_stat_get_live_tuples(child.oid), 0)
FROM pg_inherits AS link
JOIN pg_class AS child ON child.oid = link.inhrelid
WHERE link.inhparent = 'history.events'::regclass
ORDER BY child.relname;

-- name: days_in_default
SELECT received_on, count(*) FROM history.events_default GROUP BY received_on ORDER BY received_on;

-- name: make_partitions
SELECT history.add_event_partitions(%(first_day)s, %(days)s);

-- name: move_day
SELECT history.move_events_of(%(day)s);

-- name: drop_day
SELECT history.drop_events_of(%(day)s);

-- name: delete_from_default
DELETE FROM history.events_default
WHERE ctid = ANY (
    ARRAY(
        SELECT ctid FROM history.events_default
        WHERE received_on < %(first_kept)s
        LIMIT %(limit)s
        FOR UPDATE SKIP LOCKED
    )
);

-- name: list_lanes
-- One probe of the index for each lane, however many executions it has.
WITH RECURSIVE lanes AS (
    (SELECT lane FROM history.executions ORDER BY lane LIMIT 1)
    UNION ALL
    SELECT (
        SELECT execution.lane FROM history.executions AS execution
        WHERE execution.lane > lanes.lane ORDER BY execution.lane LIMIT 1
    )
    FROM lanes
    WHERE lanes.lane IS NOT NULL
)
SELECT lane FROM lanes WHERE lane IS NOT NULL;

-- name: count_old_executions
SELECT count(*) FROM history.executions
WHERE received_at < %(before)s AND updated_at < %(before)s AND status <> ALL (%(open)s);

-- name: delete_executions
-- The oldest of a lane, with their steps. What the router still moves stays, however old.
DELETE FROM history.executions AS execution
USING (
    SELECT lane, correlation_id
    FROM history.executions
    WHERE lane = %(lane)s
        AND received_at < %(before)s
        AND updated_at < %(before)s
        AND status <> ALL (%(open)s)
    ORDER BY received_at
    LIMIT %(limit)s
    FOR UPDATE SKIP LOCKED
) AS old
WHERE execution.lane = old.lane AND execution.correlation_id = old.correlation_id;

-- name: count_old_dead_letters
SELECT count(*) FROM history.dead_letters WHERE dead_lettered_at < %(before)s;

-- name: delete_dead_letters
-- The common index of a lane begins with the youngest, so it is read from its end.
DELETE FROM history.dead_letters
WHERE ctid = ANY (
    ARRAY(
        SELECT ctid FROM history.dead_letters
        WHERE lane = %(lane)s AND dead_lettered_at < %(before)s
        ORDER BY dead_lettered_at
        LIMIT %(limit)s
        FOR UPDATE SKIP LOCKED
    )
);

-- name: list_dead_letter_lanes
SELECT DISTINCT lane FROM history.dead_letters WHERE dead_lettered_at < %(before)s;

-- name: count_old_unreadable
SELECT count(*) FROM history.unreadable WHERE recorded_at < %(before)s;

-- name: delete_unreadable
DELETE FROM history.unreadable
WHERE ctid = ANY (
    ARRAY(
        SELECT ctid FROM history.unreadable
        WHERE lane = %(lane)s AND recorded_at < %(before)s
        ORDER BY recorded_at
        LIMIT %(limit)s
        FOR UPDATE SKIP LOCKED
    )
);

-- name: list_unreadable_lanes
SELECT DISTINCT lane FROM history.unreadable WHERE recorded_at < %(before)s;
