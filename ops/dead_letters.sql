-- What is asked of dead letters, and what is written down about them. History is only read here:
-- what people did about a dead letter stands in the ledger.

-- name: selected
-- The dead letters that a person means; the others' common part. A filter that is NULL does not
-- filter. The id is short, yet the same for as long as the letter is there.
SELECT i.id, d.origin_topic, d.origin_topic_id, d.origin_partition, d.origin_offset, d.role, d.code,
    d.reason, d.error_class, d.field, d.attempt, d.redrives, d.correlation_id,
    octet_length(d.value) AS size, d.dead_lettered_at, r.redriven_at, p.purged_at
FROM history.dead_letters AS d
CROSS JOIN LATERAL (
    SELECT left(encode(sha256(convert_to(concat_ws(
        chr(31), d.origin_topic_id, d.origin_partition, d.origin_offset, d.role
    ), 'UTF8')), 'hex'), 16) AS id
) AS i
LEFT JOIN LATERAL (
    SELECT max(r.sent_at) AS redriven_at
    FROM ledger.redrives AS r
    WHERE r.lane = d.lane AND r.origin_topic_id = d.origin_topic_id
        AND r.origin_partition = d.origin_partition AND r.origin_offset = d.origin_offset
        AND r.role = d.role
) AS r ON true
LEFT JOIN ledger.purges AS p
    ON p.lane = d.lane AND p.origin_topic_id = d.origin_topic_id
    AND p.origin_partition = d.origin_partition AND p.origin_offset = d.origin_offset
    AND p.role = d.role
WHERE d.lane = %(lane)s
    AND (%(handled)s OR (r.redriven_at IS NULL AND p.purged_at IS NULL))
    AND (%(role)s::text IS NULL OR d.role = %(role)s)
    AND (%(code)s::text IS NULL OR d.code = %(code)s)
    AND (%(topic)s::text IS NULL OR d.origin_topic IN (%(topic)s, d.lane || %(topic)s))
    AND (%(since)s::timestamptz IS NULL OR d.dead_lettered_at >= %(since)s)
    AND (%(before)s::timestamptz IS NULL OR d.dead_lettered_at < %(before)s)
    AND (
        %(execution)s::uuid IS NULL
        OR d.correlation_id = %(execution)s
        OR d.key = convert_to(%(execution)s::uuid::text, 'UTF8')
        OR i.id = ANY(%(requests)s::text[])
    )
    AND (%(ids)s::text[] IS NULL OR i.id LIKE ANY(%(ids)s))

-- name: newest_first
SELECT * FROM selected ORDER BY dead_lettered_at DESC, id LIMIT %(limit)s

-- name: oldest_first
-- In the order in which they were given up, so that what belongs together goes out in order.
SELECT * FROM selected ORDER BY dead_lettered_at, origin_topic, origin_partition, origin_offset

-- name: causes
SELECT code, role, split_part(reason, chr(10), 1) AS cause, count(*) AS count,
    max(dead_lettered_at) AS newest, min(dead_lettered_at) AS oldest,
    (array_agg(id ORDER BY dead_lettered_at DESC, id))[1] AS example
FROM selected
GROUP BY code, role, split_part(reason, chr(10), 1)
ORDER BY count DESC, newest DESC

-- name: contents
SELECT key, value, headers
FROM history.dead_letters
WHERE lane = %(lane)s AND origin_topic_id = %(origin_topic_id)s
    AND origin_partition = %(origin_partition)s AND origin_offset = %(origin_offset)s
    AND role = %(role)s

-- name: requests_without_id
-- Requests whose execution no header names: it may follow from their body or their place.
SELECT s.*, d.key, d.value, d.headers
FROM selected AS s
JOIN history.dead_letters AS d
    USING (origin_topic_id, origin_partition, origin_offset, role)
WHERE d.lane = %(lane)s AND s.correlation_id IS NULL

-- name: run_status
-- As the router sees it; the ledger forgets what ended long ago, and history does not.
SELECT status, is_open
FROM (
    SELECT 1 AS precedence, status, is_open FROM ledger.runs
    WHERE lane = %(lane)s AND correlation_id = %(correlation_id)s
    UNION ALL
    SELECT 2, status, false FROM history.executions
    WHERE lane = %(lane)s AND correlation_id = %(correlation_id)s AND finished_at IS NOT NULL
) AS seen
ORDER BY precedence
LIMIT 1

-- name: begin_redrive
INSERT INTO ledger.redrives (
    lane, origin_topic_id, origin_partition, origin_offset, role, number, topic, message_id,
    correlation_id, edited, requested_by, reason, requested_at
)
SELECT %(lane)s, %(origin_topic_id)s, %(origin_partition)s, %(origin_offset)s, %(role)s,
    1 + coalesce(max(number), 0), %(topic)s, %(message_id)s, %(correlation_id)s, %(edited)s,
    %(requested_by)s, %(reason)s, now()
FROM ledger.redrives
WHERE lane = %(lane)s AND origin_topic_id = %(origin_topic_id)s
    AND origin_partition = %(origin_partition)s AND origin_offset = %(origin_offset)s
    AND role = %(role)s
RETURNING number

-- name: end_redrive
UPDATE ledger.redrives SET sent_at = now()
WHERE lane = %(lane)s AND origin_topic_id = %(origin_topic_id)s
    AND origin_partition = %(origin_partition)s AND origin_offset = %(origin_offset)s
    AND role = %(role)s AND number = %(number)s

-- name: redrives_of
SELECT number, topic, message_id, correlation_id, edited, requested_by, reason, requested_at,
    sent_at
FROM ledger.redrives
WHERE lane = %(lane)s AND origin_topic_id = %(origin_topic_id)s
    AND origin_partition = %(origin_partition)s AND origin_offset = %(origin_offset)s
    AND role = %(role)s
ORDER BY number

-- name: purge
INSERT INTO ledger.purges (
    lane, origin_topic_id, origin_partition, origin_offset, role, purged_by, reason, purged_at
)
VALUES (
    %(lane)s, %(origin_topic_id)s, %(origin_partition)s, %(origin_offset)s, %(role)s,
    %(purged_by)s, %(reason)s, now()
)
ON CONFLICT DO NOTHING

-- name: lock
SELECT pg_try_advisory_lock(%(class)s, hashtext(%(lane)s))
