"""A worker process that writes down what it handles: tests kill, freeze and stop it.

Arguments: bootstrap servers, group, topic, file, window, seconds that a handler takes.
GROUP_INSTANCE_ID in the environment makes it a static member, SESSION_SECONDS is its session's
timeout.
A line is ``start`` or ``end``, partition and offset; it is in the file when the handler goes on.
Before them stands a line ``up``, 0 and the process id, when the process minds signals.
"""

import asyncio
import os
import sys

from agents.runtime.kafka import KafkaConfig
from agents.runtime.records import Record
from agents.runtime.worker import Subscription, Worker, run_worker


def main() -> None:
    servers, group, topic, path, window, seconds = sys.argv[1:]
    log = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    async def handle(record: Record) -> None:
        os.write(log, f"start {record.partition} {record.offset}\n".encode())
        await asyncio.sleep(float(seconds))
        os.write(log, f"end {record.partition} {record.offset}\n".encode())

    config = KafkaConfig(
        bootstrap_servers=servers,
        session_timeout=float(os.environ.get("SESSION_SECONDS", "6")),
        fetch_wait_ms=20,
        group_instance_id=os.environ.get("GROUP_INSTANCE_ID"),
    )
    subscription = Subscription("role", group, (topic,), handle, window=int(window))

    async def run() -> None:
        # Runs when `run_worker` waits for the first time: it has taken over the signals by then.
        asyncio.get_running_loop().call_soon(os.write, log, b"up 0 %d\n" % os.getpid())
        await run_worker(Worker(config, [subscription]))

    asyncio.run(run())


if __name__ == "__main__":
    main()
