-- What history is asked. A filter that is NULL does not filter; the planner sees the values, so
-- each combination gets the index that suits it.

-- name: execution
SELECT correlation_id, request_id, external_id, tenant, requester, title, status, code, reason,
    run_no, version, received_at, started_at, finished_at, duration_seconds, plan_id, plan_hash,
    verdict, verdict_reasons, cost, estimated_cost, summary, updated_at
FROM history.executions
WHERE lane = %(lane)s AND correlation_id = %(correlation_id)s;

-- name: executions_by_external_id
SELECT correlation_id, request_id, external_id, tenant, requester, title, status, code, reason,
    run_no, version, received_at, started_at, finished_at, duration_seconds, plan_id, plan_hash,
    verdict, verdict_reasons, cost, estimated_cost, summary, updated_at
FROM history.executions
WHERE lane = %(lane)s AND external_id = %(external_id)s
ORDER BY received_at DESC, correlation_id DESC;

-- name: list_executions
SELECT correlation_id, request_id, external_id, tenant, requester, title, status, code, reason,
    run_no, version, received_at, started_at, finished_at, duration_seconds, plan_id, plan_hash,
    verdict, verdict_reasons, cost, estimated_cost, summary, updated_at
FROM history.executions AS e
WHERE lane = %(lane)s
    AND (%(status)s::text IS NULL OR status = %(status)s)
    AND (%(tenant)s::text IS NULL OR tenant = %(tenant)s)
    AND (
        %(before_at)s::timestamptz IS NULL
        OR (received_at, correlation_id) < (%(before_at)s, %(before_id)s::uuid)
    )
    AND (%(action)s::text IS NULL OR EXISTS (
        SELECT FROM history.steps AS s
        WHERE s.lane = e.lane AND s.correlation_id = e.correlation_id AND s.action = %(action)s
    ))
    AND (%(parameters)s::jsonb IS NULL OR EXISTS (
        SELECT FROM history.steps AS s
        WHERE s.lane = e.lane AND s.correlation_id = e.correlation_id
            AND s.parameters @> %(parameters)s::jsonb
    ))
ORDER BY received_at DESC, correlation_id DESC
LIMIT %(limit)s;

-- name: steps_of
SELECT run_no, step_id, action, executor, effect, status, attempt, parameters, output, failure,
    started_at, finished_at
FROM history.steps
WHERE lane = %(lane)s AND correlation_id = %(correlation_id)s
ORDER BY run_no, started_at NULLS LAST, step_id;

-- name: events_of
-- A request that was sent again after midnight has a row in each day's partition; the first counts.
SELECT DISTINCT ON (message_id)
    message_id, causation_id, message_type, schema_version, from_agent, to_agent, tenant,
    external_id, attempt, "timestamp", received_at, topic, partition, "offset", size, payload
FROM history.events
WHERE lane = %(lane)s AND correlation_id = %(correlation_id)s
ORDER BY message_id, received_on;

-- name: dead_letters
SELECT origin_topic, origin_topic_id, origin_partition, origin_offset, role, code, reason,
    error_class, field, attempt, redrives, correlation_id, key, value, headers, dead_lettered_at
FROM history.dead_letters
WHERE lane = %(lane)s
    AND (%(code)s::text IS NULL OR code = %(code)s)
    AND (%(role)s::text IS NULL OR role = %(role)s)
ORDER BY dead_lettered_at DESC
LIMIT %(limit)s;

-- name: unreadable
SELECT topic, topic_id, partition, "offset", recorded_at, code, reason, key, value, headers
FROM history.unreadable
WHERE lane = %(lane)s
ORDER BY recorded_at DESC
LIMIT %(limit)s;
