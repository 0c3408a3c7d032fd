-- What the command line asks of history beyond the sink's own queries.

-- name: find_by_id
-- The ids that begin with something; a range of the primary key.
SELECT correlation_id FROM history.executions
WHERE lane = %(lane)s AND correlation_id BETWEEN %(first)s AND %(last)s
LIMIT %(limit)s;

-- name: ends_of
SELECT correlation_id, status, code, reason, received_at, finished_at
FROM history.executions
WHERE lane = %(lane)s
    AND correlation_id = ANY (%(executions)s)
    AND status = ANY (%(terminal)s)
    AND finished_at IS NOT NULL;

-- name: count_by_status
SELECT status, count(*) FROM history.executions WHERE lane = %(lane)s GROUP BY status;

-- name: count_rows
SELECT 'history.events', count(*) FROM history.events WHERE lane = %(lane)s
UNION ALL
SELECT 'history.executions', count(*) FROM history.executions WHERE lane = %(lane)s
UNION ALL
SELECT 'history.steps', count(*) FROM history.steps WHERE lane = %(lane)s
UNION ALL
SELECT 'history.dead_letters', count(*) FROM history.dead_letters WHERE lane = %(lane)s;

-- name: count_records
-- How many records the sink has read, by topic.
SELECT topic, sum(next_offset)::bigint FROM history.sink_offsets
WHERE lane = %(lane)s GROUP BY topic;
