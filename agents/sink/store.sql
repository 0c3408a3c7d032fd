-- What the sink says to Postgres. A batch is copied into tables of its own session first, where
-- nobody waits for anybody; then one round trip fences, merges and commits. So a sink that is
-- stopped between two statements holds no lock that another one needs.
-- Rows are merged in the order of their keys, so that two sinks do not wait for each other.

-- name: create_incoming_events
CREATE TEMPORARY TABLE incoming_events ON COMMIT DELETE ROWS AS
SELECT
    lane, received_on, correlation_id, message_id, causation_id, message_type, schema_version,
    from_agent, to_agent, tenant, external_id, attempt, "timestamp", received_at, topic,
    partition, "offset", size, payload
FROM history.events WITH NO DATA;

-- name: create_incoming_executions
CREATE TEMPORARY TABLE incoming_executions ON COMMIT DELETE ROWS AS
SELECT
    lane, correlation_id, received_at, identity_rank, identity_source, request_id, tenant,
    external_id, requester, title, run_no, version, status, code, reason, started_at,
    finished_at, cost, status_topic_id, judged_version, plan_evaluation, plan_id, plan_hash, estimated_cost,
    verdict_evaluation, verdict_id, verdict, verdict_reasons, report_run_no, report_id, summary
FROM history.executions WITH NO DATA;

-- name: create_incoming_steps
CREATE TEMPORARY TABLE incoming_steps ON COMMIT DELETE ROWS AS
SELECT
    lane, correlation_id, run_no, step_id, action, dispatch_attempt, executor, effect,
    parameters, state_version, attempt, status, output, failure, started_at, finished_at
FROM history.steps WITH NO DATA;

-- name: copy_events
COPY incoming_events FROM STDIN;

-- name: copy_executions
COPY incoming_executions FROM STDIN;

-- name: copy_steps
COPY incoming_steps FROM STDIN;

-- name: advance
-- Raises MS001 when another sink has claimed one of the partitions since.
SELECT history.advance_sink(%s, %s::text[], %s::integer[], %s::bigint[], %s::bigint[]);

-- name: insert_events
-- A message that is there already stays as it was stored first.
INSERT INTO history.events (
    lane, received_on, correlation_id, message_id, causation_id, message_type, schema_version,
    from_agent, to_agent, tenant, external_id, attempt, "timestamp", received_at, topic,
    partition, "offset", size, payload
)
SELECT
    lane, received_on, correlation_id, message_id, causation_id, message_type, schema_version,
    from_agent, to_agent, tenant, external_id, attempt, "timestamp", received_at, topic,
    partition, "offset", size, payload
FROM incoming_events
ORDER BY received_on, correlation_id, message_id
ON CONFLICT DO NOTHING;

-- name: merge_executions
-- Each group of columns goes as a whole to whoever has the greater precedence; fold.py says why.
-- A comparison with a group that is not there yet is decided by its first column, which is 0.
-- A row about which nothing new is said is left alone. One of which it is said only that it exists
-- (steps and results say no more) is not even locked, which would be a write as well; a row never
-- comes to know less, so it does not matter when it was looked at.
INSERT INTO history.executions AS e (
    lane, correlation_id, received_at, identity_rank, identity_source, request_id, tenant,
    external_id, requester, title, run_no, version, status, code, reason, started_at,
    finished_at, cost, status_topic_id, judged_version, plan_evaluation, plan_id, plan_hash, estimated_cost,
    verdict_evaluation, verdict_id, verdict, verdict_reasons, report_run_no, report_id, summary
)
SELECT
    lane, correlation_id, received_at, identity_rank, identity_source, request_id, tenant,
    external_id, requester, title, run_no, version, status, code, reason, started_at,
    finished_at, cost, status_topic_id, judged_version, plan_evaluation, plan_id, plan_hash, estimated_cost,
    verdict_evaluation, verdict_id, verdict, verdict_reasons, report_run_no, report_id, summary
FROM incoming_executions AS i
WHERE (
        i.identity_rank + i.run_no + i.version + i.judged_version + i.plan_evaluation
        + i.verdict_evaluation + i.report_run_no
    ) > 0
    OR NOT EXISTS (
        SELECT FROM history.executions AS known
        WHERE known.lane = i.lane AND known.correlation_id = i.correlation_id
            AND known.received_at <= i.received_at AND known.identity_rank > 0
    )
ORDER BY correlation_id
ON CONFLICT (lane, correlation_id) DO UPDATE SET
    received_at = least(e.received_at, excluded.received_at),
    -- identity
    identity_rank = CASE WHEN (excluded.identity_rank, e.identity_source) > (e.identity_rank, excluded.identity_source)
        THEN excluded.identity_rank ELSE e.identity_rank END,
    identity_source = CASE WHEN (excluded.identity_rank, e.identity_source) > (e.identity_rank, excluded.identity_source)
        THEN excluded.identity_source ELSE e.identity_source END,
    request_id = CASE WHEN (excluded.identity_rank, e.identity_source) > (e.identity_rank, excluded.identity_source)
        THEN excluded.request_id ELSE e.request_id END,
    tenant = CASE WHEN (excluded.identity_rank, e.identity_source) > (e.identity_rank, excluded.identity_source)
        THEN excluded.tenant ELSE e.tenant END,
    external_id = CASE WHEN (excluded.identity_rank, e.identity_source) > (e.identity_rank, excluded.identity_source)
        THEN excluded.external_id ELSE e.external_id END,
    requester = CASE WHEN (excluded.identity_rank, e.identity_source) > (e.identity_rank, excluded.identity_source)
        THEN excluded.requester ELSE e.requester END,
    title = CASE WHEN (excluded.identity_rank, e.identity_source) > (e.identity_rank, excluded.identity_source)
        THEN excluded.title ELSE e.title END,
    -- status
    run_no = CASE WHEN (excluded.run_no, excluded.version) > (e.run_no, e.version)
        THEN excluded.run_no ELSE e.run_no END,
    version = CASE WHEN (excluded.run_no, excluded.version) > (e.run_no, e.version)
        THEN excluded.version ELSE e.version END,
    status = CASE WHEN (excluded.run_no, excluded.version) > (e.run_no, e.version)
        THEN excluded.status ELSE e.status END,
    code = CASE WHEN (excluded.run_no, excluded.version) > (e.run_no, e.version)
        THEN excluded.code ELSE e.code END,
    reason = CASE WHEN (excluded.run_no, excluded.version) > (e.run_no, e.version)
        THEN excluded.reason ELSE e.reason END,
    started_at = CASE WHEN (excluded.run_no, excluded.version) > (e.run_no, e.version)
        THEN excluded.started_at ELSE e.started_at END,
    finished_at = CASE WHEN (excluded.run_no, excluded.version) > (e.run_no, e.version)
        THEN excluded.finished_at ELSE e.finished_at END,
    cost = CASE WHEN (excluded.run_no, excluded.version) > (e.run_no, e.version)
        THEN excluded.cost ELSE e.cost END,
    status_topic_id = CASE WHEN (excluded.run_no, excluded.version) > (e.run_no, e.version)
        THEN excluded.status_topic_id ELSE e.status_topic_id END,
    -- judged: a state names plan and verdict, or says that there are none
    judged_version = greatest(e.judged_version, excluded.judged_version),
    -- plan
    plan_evaluation = CASE WHEN (excluded.judged_version, excluded.plan_evaluation, excluded.plan_id) > (e.judged_version, e.plan_evaluation, e.plan_id)
        THEN excluded.plan_evaluation ELSE e.plan_evaluation END,
    plan_id = CASE WHEN (excluded.judged_version, excluded.plan_evaluation, excluded.plan_id) > (e.judged_version, e.plan_evaluation, e.plan_id)
        THEN excluded.plan_id ELSE e.plan_id END,
    plan_hash = CASE WHEN (excluded.judged_version, excluded.plan_evaluation, excluded.plan_id) > (e.judged_version, e.plan_evaluation, e.plan_id)
        THEN excluded.plan_hash ELSE e.plan_hash END,
    estimated_cost = CASE WHEN (excluded.judged_version, excluded.plan_evaluation, excluded.plan_id) > (e.judged_version, e.plan_evaluation, e.plan_id)
        THEN excluded.estimated_cost ELSE e.estimated_cost END,
    -- verdict
    verdict_evaluation = CASE WHEN (excluded.judged_version, excluded.verdict_evaluation, excluded.verdict_id) > (e.judged_version, e.verdict_evaluation, e.verdict_id)
        THEN excluded.verdict_evaluation ELSE e.verdict_evaluation END,
    verdict_id = CASE WHEN (excluded.judged_version, excluded.verdict_evaluation, excluded.verdict_id) > (e.judged_version, e.verdict_evaluation, e.verdict_id)
        THEN excluded.verdict_id ELSE e.verdict_id END,
    verdict = CASE WHEN (excluded.judged_version, excluded.verdict_evaluation, excluded.verdict_id) > (e.judged_version, e.verdict_evaluation, e.verdict_id)
        THEN excluded.verdict ELSE e.verdict END,
    verdict_reasons = CASE WHEN (excluded.judged_version, excluded.verdict_evaluation, excluded.verdict_id) > (e.judged_version, e.verdict_evaluation, e.verdict_id)
        THEN excluded.verdict_reasons ELSE e.verdict_reasons END,
    -- report
    report_run_no = CASE WHEN (excluded.report_run_no, excluded.report_id) > (e.report_run_no, e.report_id)
        THEN excluded.report_run_no ELSE e.report_run_no END,
    report_id = CASE WHEN (excluded.report_run_no, excluded.report_id) > (e.report_run_no, e.report_id)
        THEN excluded.report_id ELSE e.report_id END,
    summary = CASE WHEN (excluded.report_run_no, excluded.report_id) > (e.report_run_no, e.report_id)
        THEN excluded.summary ELSE e.summary END
WHERE excluded.received_at < e.received_at
    OR (excluded.identity_rank, e.identity_source) > (e.identity_rank, excluded.identity_source)
    OR (excluded.run_no, excluded.version) > (e.run_no, e.version)
    OR (excluded.judged_version, excluded.plan_evaluation, excluded.plan_id) > (e.judged_version, e.plan_evaluation, e.plan_id)
    OR (excluded.judged_version, excluded.verdict_evaluation, excluded.verdict_id) > (e.judged_version, e.verdict_evaluation, e.verdict_id)
    OR (excluded.report_run_no, excluded.report_id) > (e.report_run_no, e.report_id);

-- name: merge_steps
INSERT INTO history.steps AS s (
    lane, correlation_id, run_no, step_id, action, dispatch_attempt, executor, effect,
    parameters, state_version, attempt, status, output, failure, started_at, finished_at
)
SELECT
    lane, correlation_id, run_no, step_id, action, dispatch_attempt, executor, effect,
    parameters, state_version, attempt, status, output, failure, started_at, finished_at
FROM incoming_steps
ORDER BY correlation_id, run_no, step_id
ON CONFLICT (lane, correlation_id, run_no, step_id) DO UPDATE SET
    -- dispatch
    dispatch_attempt = CASE WHEN excluded.dispatch_attempt > s.dispatch_attempt
        THEN excluded.dispatch_attempt ELSE s.dispatch_attempt END,
    executor = CASE WHEN excluded.dispatch_attempt > s.dispatch_attempt
        THEN excluded.executor ELSE s.executor END,
    effect = CASE WHEN excluded.dispatch_attempt > s.dispatch_attempt
        THEN excluded.effect ELSE s.effect END,
    parameters = CASE WHEN excluded.dispatch_attempt > s.dispatch_attempt
        THEN excluded.parameters ELSE s.parameters END,
    -- progress
    state_version = CASE WHEN (excluded.state_version, excluded.attempt) > (s.state_version, s.attempt)
        THEN excluded.state_version ELSE s.state_version END,
    attempt = CASE WHEN (excluded.state_version, excluded.attempt) > (s.state_version, s.attempt)
        THEN excluded.attempt ELSE s.attempt END,
    status = CASE WHEN (excluded.state_version, excluded.attempt) > (s.state_version, s.attempt)
        THEN excluded.status ELSE s.status END,
    output = CASE WHEN (excluded.state_version, excluded.attempt) > (s.state_version, s.attempt)
        THEN excluded.output ELSE s.output END,
    failure = CASE WHEN (excluded.state_version, excluded.attempt) > (s.state_version, s.attempt)
        THEN excluded.failure ELSE s.failure END,
    started_at = CASE WHEN (excluded.state_version, excluded.attempt) > (s.state_version, s.attempt)
        THEN excluded.started_at ELSE s.started_at END,
    finished_at = CASE WHEN (excluded.state_version, excluded.attempt) > (s.state_version, s.attempt)
        THEN excluded.finished_at ELSE s.finished_at END
WHERE excluded.dispatch_attempt > s.dispatch_attempt
    OR (excluded.state_version, excluded.attempt) > (s.state_version, s.attempt);

-- name: insert_dead_letter
-- Of two dead letters for the same record, role and topic the first one written is kept.
INSERT INTO history.dead_letters AS d (
    lane, origin_topic_id, origin_partition, origin_offset, role, origin_topic, code, reason,
    error_class, field, attempt, redrives, correlation_id, key, value, headers, partition,
    "offset", dead_lettered_at
)
VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)
ON CONFLICT (lane, origin_topic_id, origin_partition, origin_offset, role) DO UPDATE SET
    origin_topic = excluded.origin_topic,
    code = excluded.code,
    reason = excluded.reason,
    error_class = excluded.error_class,
    field = excluded.field,
    attempt = excluded.attempt,
    redrives = excluded.redrives,
    correlation_id = excluded.correlation_id,
    key = excluded.key,
    value = excluded.value,
    headers = excluded.headers,
    partition = excluded.partition,
    "offset" = excluded."offset",
    dead_lettered_at = excluded.dead_lettered_at
WHERE (excluded.dead_lettered_at, excluded.partition, excluded."offset")
    < (d.dead_lettered_at, d.partition, d."offset");

-- name: insert_unreadable
INSERT INTO history.unreadable (
    lane, topic, topic_id, partition, "offset", recorded_at, code, reason, key, value, headers
)
VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)
ON CONFLICT DO NOTHING;

-- name: lock_positions
-- The positions of the wanted partitions whose topic is another one now.
SELECT held.topic_id
FROM (
    SELECT o.topic_id, wanted.topic_id AS new_topic_id
    FROM unnest(%(topics)s::text[], %(partitions)s::integer[], %(topic_ids)s::text[])
        AS wanted (topic, partition, topic_id)
    JOIN history.sink_offsets AS o
        ON o.lane = %(lane)s AND o.topic = wanted.topic AND o.partition = wanted.partition
    ORDER BY o.topic, o.partition
    FOR UPDATE OF o
) AS held
WHERE held.topic_id <> held.new_topic_id;

-- name: claim_positions
-- From here on no other sink can write what it has read from these partitions.
INSERT INTO history.sink_offsets AS o (lane, topic, partition, topic_id, next_offset, epoch)
SELECT %(lane)s, wanted.topic, wanted.partition, wanted.topic_id, 0, 1
FROM unnest(%(topics)s::text[], %(partitions)s::integer[], %(topic_ids)s::text[])
    AS wanted (topic, partition, topic_id)
ORDER BY wanted.topic, wanted.partition
ON CONFLICT (lane, topic, partition) DO UPDATE SET
    epoch = o.epoch + 1,
    next_offset = CASE WHEN o.topic_id <> excluded.topic_id THEN 0 ELSE o.next_offset END,
    topic_id = coalesce(excluded.topic_id, o.topic_id)
RETURNING topic, partition, epoch, next_offset;

-- name: mark_broker_reset
-- Executions whose last trace is on a topic that is gone, and which the router never saw.
UPDATE history.executions
SET version = %(version)s, status = 'failed', code = 'broker_reset', reason = %(reason)s,
    finished_at = now()
WHERE lane = %(lane)s AND status IN ('received', 'parsed', 'planned') AND run_no = 0
    AND status_topic_id = ANY (%(topic_ids)s);

-- name: add_event_partitions
SELECT history.add_event_partitions(%s, %s);
