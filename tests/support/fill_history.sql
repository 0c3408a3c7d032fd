-- Rows enough that the planner prefers an index where one fits: 20,000 executions and records,
-- a tenth of them in another lane.

-- name: executions
INSERT INTO history.executions (lane, correlation_id, received_at, identity_rank,
    identity_source, external_id, tenant, run_no, version, status,
    plan_evaluation, verdict_evaluation, report_run_no)
SELECT CASE n % 10 WHEN 0 THEN '' ELSE 'test.' END, gen_random_uuid(),
    now() - n * interval '1 second', 3, gen_random_uuid(),
    CASE n % 50 WHEN 0 THEN 'ext-' || n END, 'tenant-' || n % 200, 1, 5,
    CASE WHEN n % 100 = 0 THEN 'failed' ELSE 'success' END, 1, 1, 1
FROM generate_series(1, 20000) AS n;

-- name: steps
INSERT INTO history.steps (lane, correlation_id, run_no, step_id, action,
    dispatch_attempt, parameters, state_version, attempt, status)
SELECT lane, correlation_id, 1, 'step-' || s,
    CASE WHEN hashtext(correlation_id::text) % 500 = 0 THEN 'rare.action'
        ELSE 'common.action' END,
    1, jsonb_build_object('service', hashtext(correlation_id::text) % 1000,
        's', s), 5, 1, 'success'
FROM history.executions, generate_series(1, 2) AS s;

-- name: events
INSERT INTO history.events (lane, received_on, correlation_id, message_id,
    message_type, schema_version, from_agent, tenant, attempt, "timestamp",
    received_at, topic, partition, "offset", size, payload)
SELECT lane, received_at::date, correlation_id, gen_random_uuid(), 'Plan', 1,
    'planner', tenant, 1, received_at, received_at, 't', 0, 0, 0, '{}'
FROM history.executions, generate_series(1, 4);

-- name: dead_letters
INSERT INTO history.dead_letters (lane, origin_topic_id, origin_partition,
    origin_offset, role, origin_topic, code, reason, attempt, redrives, headers,
    partition, "offset", dead_lettered_at)
SELECT CASE n % 10 WHEN 0 THEN '' ELSE 'test.' END, 'id', 0, n,
    CASE n % 90 WHEN 1 THEN 'router' ELSE 'planner' END, 't',
    CASE n % 90 WHEN 2 THEN 'bug' ELSE 'invalid_message' END, 'why', 1, 0, '[]',
    0, n, now() - n * interval '1 second'
FROM generate_series(1, 20000) AS n;

-- name: unreadable
INSERT INTO history.unreadable (lane, topic, topic_id, partition, "offset",
    recorded_at, code, reason, headers)
SELECT CASE n % 10 WHEN 0 THEN '' ELSE 'test.' END, 't', 'id', 0, n,
    now() - n * interval '1 second', 'invalid_message', 'why', '[]'
FROM generate_series(1, 20000) AS n;
