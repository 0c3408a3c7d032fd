"""A worker that outlives its broker does not go on as if nothing had happened."""

from pathlib import Path

import pytest
from support.pipeline_processes import PipelineProcess, create_topics, variables
from support.waiting import wait_until

from ops.local import TansuBroker

pytestmark = pytest.mark.integration


def test_a_worker_ends_when_its_topics_were_made_anew(
    database_url: str, lane: str, tmp_path: Path
) -> None:
    broker = TansuBroker(tmp_path / "broker")
    settings = variables(broker.bootstrap_servers, database_url, lane)
    settings |= {"MILLSTREAM_BROKER_CHECK": "0.5", "MILLSTREAM_KAFKA_IDEMPOTENCE": "false"}
    with broker:
        create_topics(broker.bootstrap_servers, lane)
        with PipelineProcess(
            "worker", "--roles", "router", settings=settings, log=tmp_path / "worker.log"
        ) as worker:
            wait_until(worker.is_ready, "the worker is ready")
            broker.stop()
            broker.start()
            assert worker.is_running, worker.log
            create_topics(broker.bootstrap_servers, lane)
            wait_until(lambda: not worker.is_running, "the worker has ended")
            assert f"{lane}millstream.verdicts.v1" in worker.log
            assert "were made anew" in worker.log.splitlines()[-1], worker.log[-3000:]
            assert worker.stop() == 2
