-- name: address
-- What all messages of an execution carry.
SELECT tenant, received_at, external_id
FROM history.executions
WHERE lane = %(lane)s AND correlation_id = %(correlation_id)s;
