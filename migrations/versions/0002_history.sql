-- What the sink writes: every event, the read model made of them, and how far it has read.
-- Nothing here is read by a role. Every key starts with the lane.

CREATE SCHEMA history;

-- Every message but the states, whose newest version is projected into executions and steps.
-- The hot path: one index, no foreign key. The key leads with the execution, so that it also
-- serves "the events of an execution". A partition holds one day of received_at. A request that a
-- client sends again after midnight has a row in each day's partition (and so may have what the
-- roles before the router made of it); it is one execution, and events_of shows it once.
CREATE TABLE history.events (
    lane text NOT NULL,
    received_on date NOT NULL,
    correlation_id uuid NOT NULL,
    message_id uuid NOT NULL,
    causation_id uuid,
    message_type text NOT NULL,
    schema_version integer NOT NULL,
    from_agent text NOT NULL,
    to_agent text,
    tenant text NOT NULL,
    external_id text,
    attempt integer NOT NULL,
    "timestamp" timestamptz NOT NULL,
    received_at timestamptz NOT NULL,
    topic text NOT NULL,
    partition integer NOT NULL,
    "offset" bigint NOT NULL,
    size integer NOT NULL,
    payload jsonb NOT NULL,
    CONSTRAINT events_pkey PRIMARY KEY (lane, received_on, correlation_id, message_id)
) PARTITION BY RANGE (received_on);

CREATE TABLE history.events_default PARTITION OF history.events DEFAULT;

-- One row per execution. Columns come in groups; each group is written as a whole by the message
-- with the greatest precedence, so the order of arrival does not matter:
--   identity   (identity_rank, then the lowest identity_source)
--   status     (run_no, version); run 0 is what the sink sees before the router does
--   plan       (plan_evaluation, plan_id)
--   verdict    (verdict_evaluation, verdict_id)
--   report     (report_run_no, report_id)
CREATE TABLE history.executions (
    lane text NOT NULL,
    correlation_id uuid NOT NULL,
    received_at timestamptz NOT NULL,
    identity_rank smallint NOT NULL,
    identity_source uuid NOT NULL,
    request_id uuid,
    tenant text NOT NULL,
    external_id text,
    requester text,
    title text,
    run_no integer NOT NULL,
    version integer NOT NULL,
    status text NOT NULL,
    code text,
    reason text,
    started_at timestamptz,
    finished_at timestamptz,
    duration_seconds double precision
        GENERATED ALWAYS AS (EXTRACT(epoch FROM finished_at - received_at)::double precision) STORED,
    cost numeric(18, 6),
    status_topic_id text,
    plan_evaluation integer NOT NULL,
    plan_id uuid,
    plan_hash text,
    estimated_cost numeric(18, 6),
    verdict_evaluation integer NOT NULL,
    verdict_id uuid,
    verdict text,
    verdict_reasons jsonb,
    report_run_no integer NOT NULL,
    report_id uuid,
    summary text,
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT executions_pkey PRIMARY KEY (lane, correlation_id)
) WITH (fillfactor = 70);

-- list_executions: all, by status, by tenant; each newest first.
CREATE INDEX executions_recent_idx
    ON history.executions (lane, received_at DESC, correlation_id DESC);
CREATE INDEX executions_status_idx
    ON history.executions (lane, status, received_at DESC, correlation_id DESC);
CREATE INDEX executions_tenant_idx
    ON history.executions (lane, tenant, received_at DESC, correlation_id DESC);
-- find_execution: by the requester's own id.
CREATE INDEX executions_external_idx
    ON history.executions (lane, external_id) WHERE external_id IS NOT NULL;

-- One row per step and run, in two groups: what was dispatched (dispatch_attempt), and where it
-- stands (state_version, attempt).
CREATE TABLE history.steps (
    lane text NOT NULL,
    correlation_id uuid NOT NULL,
    run_no integer NOT NULL,
    step_id text NOT NULL,
    action text NOT NULL,
    dispatch_attempt integer NOT NULL,
    executor text,
    effect text,
    parameters jsonb,
    state_version integer NOT NULL,
    attempt integer NOT NULL,
    status text NOT NULL,
    output jsonb,
    failure jsonb,
    started_at timestamptz,
    finished_at timestamptz,
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT steps_pkey PRIMARY KEY (lane, correlation_id, run_no, step_id),
    CONSTRAINT steps_lane_correlation_id_fkey FOREIGN KEY (lane, correlation_id)
        REFERENCES history.executions (lane, correlation_id) ON DELETE CASCADE
) WITH (fillfactor = 80);

-- list_executions by action.
CREATE INDEX steps_action_idx ON history.steps (lane, action, correlation_id);
-- list_executions by parameters, such as {"service": "checkout"}.
CREATE INDEX steps_parameters_idx ON history.steps USING gin (parameters jsonb_path_ops);

-- Records that their consumer gave up, each once. Header values that are UTF-8 are strings,
-- others {"base64": "..."}; a name may come more than once, so headers is a list of pairs.
CREATE TABLE history.dead_letters (
    lane text NOT NULL,
    origin_topic_id text NOT NULL,
    origin_partition integer NOT NULL,
    origin_offset bigint NOT NULL,
    role text NOT NULL,
    origin_topic text NOT NULL,
    code text NOT NULL,
    reason text NOT NULL,
    error_class text,
    field text,
    attempt integer NOT NULL,
    redrives integer NOT NULL,
    correlation_id uuid,
    key bytea,
    value bytea,
    headers jsonb NOT NULL,
    partition integer NOT NULL,
    "offset" bigint NOT NULL,
    dead_lettered_at timestamptz NOT NULL,
    CONSTRAINT dead_letters_pkey
        PRIMARY KEY (lane, origin_topic_id, origin_partition, origin_offset, role)
);

-- list_dead_letters: all, by code, by role; each newest first.
CREATE INDEX dead_letters_recent_idx ON history.dead_letters (lane, dead_lettered_at DESC);
CREATE INDEX dead_letters_code_idx ON history.dead_letters (lane, code, dead_lettered_at DESC);
CREATE INDEX dead_letters_role_idx ON history.dead_letters (lane, role, dead_lettered_at DESC);

-- Records of any topic that are no message of it: garbage and tombstones, as they came.
CREATE TABLE history.unreadable (
    lane text NOT NULL,
    topic text NOT NULL,
    topic_id text NOT NULL,
    partition integer NOT NULL,
    "offset" bigint NOT NULL,
    recorded_at timestamptz NOT NULL,
    code text NOT NULL,
    reason text NOT NULL,
    key bytea,
    value bytea,
    headers jsonb NOT NULL,
    CONSTRAINT unreadable_pkey PRIMARY KEY (lane, topic, topic_id, partition, "offset")
);

-- list_unreadable: newest first.
CREATE INDEX unreadable_recent_idx ON history.unreadable (lane, recorded_at DESC);

-- How far the sink has read. Whoever claims a partition raises its epoch; a batch is written only
-- under the newest one.
CREATE TABLE history.sink_offsets (
    lane text NOT NULL,
    topic text NOT NULL,
    partition integer NOT NULL,
    topic_id text,
    next_offset bigint NOT NULL,
    epoch bigint NOT NULL,
    CONSTRAINT sink_offsets_pkey PRIMARY KEY (lane, topic, partition)
) WITH (fillfactor = 50);

CREATE FUNCTION history.set_updated_at() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.updated_at := clock_timestamp();
    RETURN NEW;
END
$$;

CREATE TRIGGER executions_updated_at BEFORE UPDATE ON history.executions
    FOR EACH ROW EXECUTE FUNCTION history.set_updated_at();
CREATE TRIGGER steps_updated_at BEFORE UPDATE ON history.steps
    FOR EACH ROW EXECUTE FUNCTION history.set_updated_at();

-- Moves the position of partitions that the caller has claimed under the given epochs. If another
-- has claimed one of them since, it raises MS001, which fails the transaction with all it wrote.
-- It raises, rather than returns, so that a batch can be sent in one go, COMMIT included.
CREATE FUNCTION history.advance_sink(
    of_lane text, topics text[], partitions integer[], epochs bigint[], positions bigint[]
) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    held integer;
BEGIN
    -- Rows are locked in the order of their keys, so that two sinks never wait for each other.
    WITH moved AS MATERIALIZED (
        SELECT o.topic, o.partition, m.next_offset
        FROM unnest(topics, partitions, epochs, positions)
            AS m (topic, partition, epoch, next_offset)
        JOIN history.sink_offsets AS o
            ON o.lane = of_lane AND o.topic = m.topic AND o.partition = m.partition
            AND o.epoch = m.epoch
        ORDER BY o.topic, o.partition
        FOR UPDATE OF o
    )
    UPDATE history.sink_offsets AS o
    SET next_offset = moved.next_offset
    FROM moved
    WHERE o.lane = of_lane AND o.topic = moved.topic AND o.partition = moved.partition;
    GET DIAGNOSTICS held = ROW_COUNT;
    IF held <> cardinality(topics) THEN
        RAISE EXCEPTION 'another sink has claimed % of % partitions',
            cardinality(topics) - held, cardinality(topics) USING ERRCODE = 'MS001';
    END IF;
END
$$;

-- Makes the daily partitions of events from first_day on that are missing; returns how many. A day
-- of which the default partition has rows already stays there.
CREATE FUNCTION history.add_event_partitions(first_day date, days integer)
RETURNS integer LANGUAGE plpgsql AS $$
DECLARE
    made integer := 0;
    day date;
    name text;
BEGIN
    FOR day IN SELECT first_day + n FROM generate_series(0, days - 1) AS n LOOP
        name := 'events_' || to_char(day, 'YYYYMMDD');
        CONTINUE WHEN to_regclass(format('history.%I', name)) IS NOT NULL;
        LOCK TABLE history.events IN ACCESS EXCLUSIVE MODE;
        CONTINUE WHEN to_regclass(format('history.%I', name)) IS NOT NULL;
        CONTINUE WHEN EXISTS (SELECT FROM history.events_default WHERE received_on = day);
        EXECUTE format(
            'CREATE TABLE history.%I PARTITION OF history.events FOR VALUES FROM (%L) TO (%L)',
            name, day, day + 1
        );
        made := made + 1;
    END LOOP;
    RETURN made;
END
$$;
