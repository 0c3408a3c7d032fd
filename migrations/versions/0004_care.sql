-- What care for the daily partitions of history.events needs. Each function takes the lock that
-- keeps readers and the sink out for its own transaction only: call it with a short lock_timeout,
-- since whoever waits for this lock makes everybody behind wait too.

-- Makes the partition of a day out of what the default partition holds of it; returns how many
-- rows were moved. The rows move under the lock, so nobody ever misses one or finds it twice.
CREATE OR REPLACE FUNCTION history.move_events_of(day date)
RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    name text := 'events_' || to_char(day, 'YYYYMMDD');
    moved bigint;
BEGIN
    LOCK TABLE history.events IN ACCESS EXCLUSIVE MODE;
    IF to_regclass(format('history.%I', name)) IS NOT NULL THEN
        RETURN 0;  -- somebody was quicker
    END IF;
    EXECUTE format('CREATE TABLE history.%I (LIKE history.events INCLUDING ALL)', name);
    EXECUTE format(
        'WITH moving AS ('
        '    DELETE FROM history.events_default WHERE received_on = %L RETURNING *'
        ') INSERT INTO history.%I SELECT * FROM moving',
        day, name
    );
    GET DIAGNOSTICS moved = ROW_COUNT;
    EXECUTE format(
        'ALTER TABLE history.events ATTACH PARTITION history.%I FOR VALUES FROM (%L) TO (%L)',
        name, day, day + 1
    );
    RETURN moved;
END
$$;

-- Drops the partition of a day with all its rows; a day that is not over is refused.
CREATE OR REPLACE FUNCTION history.drop_events_of(day date)
RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    IF day >= (now() AT TIME ZONE 'UTC')::date THEN
        RAISE EXCEPTION 'the events of % are not dropped: that day is not over', day
            USING ERRCODE = 'MS002';
    END IF;
    EXECUTE format('DROP TABLE IF EXISTS history.%I', 'events_' || to_char(day, 'YYYYMMDD'));
END
$$;
