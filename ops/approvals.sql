-- What the command line asks about approvals. What waits is read from the router's own record, so
-- that nobody approves what history has not caught up with.

-- name: waiting
SELECT correlation_id, document
FROM ledger.runs
WHERE lane = %(lane)s AND is_open AND status = 'needs_approval'
ORDER BY next_wakeup, correlation_id
LIMIT %(limit)s;

-- name: run
SELECT correlation_id, document
FROM ledger.runs
WHERE lane = %(lane)s AND correlation_id = %(correlation_id)s;

-- name: answer
-- The router's answer to a command; a repeated one says the same.
SELECT payload
FROM history.events
WHERE lane = %(lane)s
    AND correlation_id = %(correlation_id)s
    AND message_type = 'CommandAnswer'
    AND causation_id = %(message_id)s
LIMIT 1;
