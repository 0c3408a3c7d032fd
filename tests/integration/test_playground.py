"""The playground, as a process that tests and the demo talk to."""

import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from support.playgrounds import RunningPlayground, running_playground

from agents.runtime.catalogue import load_catalogue
from agents.runtime.settings import ROOT

pytestmark = pytest.mark.integration

CHECKOUT = "/environments/staging/services/checkout"


@pytest.fixture
def playground() -> Iterator[RunningPlayground]:
    with running_playground() as running:
        yield running


def error_code(response: httpx.Response) -> tuple[int, str]:
    return response.status_code, response.json()["error"]["code"]


def test_begins_with_the_same_services_everywhere(playground: RunningPlayground) -> None:
    services = playground.get("/state")["services"]
    assert len(services) == 15
    assert all(service["health"] == "healthy" for service in services)
    assert playground.service("staging", "checkout") == {
        "service": "checkout",
        "environment": "staging",
        "version": "2.4.1",
        "health": "healthy",
        "replicas": 2,
    }


def test_has_everything_that_the_shipped_catalogue_names(playground: RunningPlayground) -> None:
    catalogue = load_catalogue(ROOT / "actions.yaml")
    for environment in catalogue.environments:
        for service in catalogue.entities["service"]:
            assert playground.service(environment, service)["service"] == service
        for database in catalogue.entities["database"]:
            backup = playground.post(f"/environments/{environment}/databases/{database}/backup")
            assert backup.status_code == 200


def test_restarts_deploys_scales_and_rolls_back(playground: RunningPlayground) -> None:
    restarted = playground.post(f"{CHECKOUT}/restart").json()
    assert restarted["restarted_at"] > "2020"
    deployed = playground.post(f"{CHECKOUT}/deploy", {"version": "2.5.0"}).json()
    assert (deployed["version"], deployed["previous_version"]) == ("2.5.0", "2.4.1")
    assert playground.post(f"{CHECKOUT}/scale", {"replicas": 0}).json()["health"] == "down"
    assert playground.post(f"{CHECKOUT}/scale", {"replicas": 3}).json()["health"] == "healthy"
    assert playground.post(f"{CHECKOUT}/rollback").json()["version"] == "2.4.1"
    assert error_code(playground.post(f"{CHECKOUT}/rollback")) == (409, "nothing_to_roll_back")
    assert playground.service("production", "checkout")["version"] == "2.4.0"


def test_a_deleted_service_is_gone(playground: RunningPlayground) -> None:
    assert playground.client.delete(CHECKOUT).status_code == 204
    assert error_code(playground.client.get(CHECKOUT)) == (404, "unknown_service")


def test_backups_have_ids_of_their_own(playground: RunningPlayground) -> None:
    path = "/environments/production/databases/orders/backup"
    first, second = (playground.post(path).json() for _ in range(2))
    assert first["backup_id"] != second["backup_id"]
    assert first["size_mb"] > 0
    assert len(playground.get("/state")["backups"]) == 2


def test_keeps_messages_in_order(playground: RunningPlayground) -> None:
    lines = [{"channel": "#releases", "text": text} for text in ("one", "zwei", "三")]
    for line in lines:
        assert playground.post("/messages", line).status_code == 200
    assert playground.get("/messages") == {"messages": lines}


def test_counts_every_effect_although_the_idempotency_key_is_the_same(
    playground: RunningPlayground,
) -> None:
    for _ in range(2):
        playground.client.post(f"{CHECKOUT}/restart", headers={"Idempotency-Key": "k1"})
    playground.post(f"{CHECKOUT}/restart")
    playground.service("staging", "checkout")
    seen = playground.get("/calls")
    assert seen["effects"] == {"k1": 2}
    assert [call["idempotency_key"] for call in seen["calls"]] == ["k1", "k1", None]
    assert all(call["took_effect"] and call["status"] == 200 for call in seen["calls"])


def test_loses_no_call_of_many_at_once(playground: RunningPlayground) -> None:
    def restart(number: int) -> int:
        headers = {"Idempotency-Key": f"k{number % 10}"}
        return playground.client.post(f"{CHECKOUT}/restart", headers=headers).status_code

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(restart, range(80))) == {200}
    assert sorted(playground.effects()) == [8] * 10


def test_a_refusal_has_no_effect_and_ends_after_its_count(playground: RunningPlayground) -> None:
    playground.fail_next(count=2, status=429, retry_after=1.5)
    refused = playground.post(f"{CHECKOUT}/deploy", {"version": "9"})
    assert (error_code(refused), refused.headers["Retry-After"]) == ((429, "fault"), "1.5")
    assert playground.client.get(CHECKOUT).status_code == 429
    assert playground.service("staging", "checkout")["version"] == "2.4.1"
    call = playground.get("/calls")["calls"][0]
    assert (call["took_effect"], call["status"]) == (False, 429)


def test_a_fault_is_that_of_one_service_in_one_environment(playground: RunningPlayground) -> None:
    playground.fail_next()
    assert playground.service("production", "checkout")
    assert playground.service("staging", "search")
    assert playground.client.get(CHECKOUT).status_code == 503


def test_a_cut_connection_leaves_the_effect_behind(playground: RunningPlayground) -> None:
    playground.fail_next(kind="cut")
    with pytest.raises(httpx.RemoteProtocolError):
        playground.post(f"{CHECKOUT}/deploy", {"version": "9"})
    assert playground.service("staging", "checkout")["version"] == "9"
    call = playground.get("/calls")["calls"][0]
    assert (call["took_effect"], call["status"]) == (True, None)


def test_a_slow_call_answers_late_while_others_are_served(playground: RunningPlayground) -> None:
    playground.fail_next(kind="slow", delay=30)
    with pytest.raises(httpx.ReadTimeout):
        playground.client.post(f"{CHECKOUT}/deploy", json={"version": "9"}, timeout=0.3)
    assert playground.service("staging", "checkout")["version"] == "9"


@pytest.mark.parametrize(
    ("method", "path", "body", "expected"),
    [
        ("GET", "/environments/moon/services/checkout", None, (404, "unknown_environment")),
        ("GET", "/environments/staging/services/typo", None, (404, "unknown_service")),
        ("POST", "/environments/staging/databases/typo/backup", None, (404, "unknown_database")),
        ("GET", "/nothing", None, (404, "unknown_path")),
        ("GET", "/%0A", None, (404, "unknown_path")),
        ("DELETE", "/messages", None, (405, "wrong_method")),
        ("GET", f"{CHECKOUT}/restart", None, (405, "wrong_method")),
        ("POST", f"{CHECKOUT}/deploy", {"version": 3}, (422, "invalid_body")),
        ("POST", f"{CHECKOUT}/deploy", None, (422, "invalid_body")),
        ("POST", f"{CHECKOUT}/scale", {"replicas": -1}, (422, "invalid_body")),
        ("POST", f"{CHECKOUT}/scale", {"replicas": 1, "x": 2}, (422, "invalid_body")),
        ("POST", "/messages", {"channel": "#a"}, (422, "invalid_body")),
        ("POST", "/faults", {"service": "x", "environment": "staging"}, (404, "unknown_service")),
    ],
)
def test_bad_input_is_answered_with_a_clear_error(
    playground: RunningPlayground, method: str, path: str, body: Any, expected: tuple[int, str]
) -> None:
    response = playground.client.request(method, path, json=body)
    assert error_code(response) == expected
    assert response.json()["error"]["message"]
    assert playground.get("/healthz") == {"ok": True}


def test_a_slash_in_a_name_stays_in_the_name(playground: RunningPlayground) -> None:
    response = playground.client.get("/environments/staging/services/a%2Frestart")
    assert response.json()["error"]["message"] == "no service 'a/restart' in staging"


@pytest.mark.parametrize(
    ("length", "status"), [("2000000", 413), ("-1", 400), ("many", 400), ("²", 400)]
)
def test_a_wrong_content_length_is_refused(
    playground: RunningPlayground, length: str, status: int
) -> None:
    address = urlsplit(playground.url)
    with socket.create_connection((address.hostname, address.port), timeout=5) as connection:
        head = f"POST /messages HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n"
        connection.sendall(head.encode())
        assert f" {status} ".encode() in connection.recv(100)


def test_a_call_that_breaks_off_has_no_effect(playground: RunningPlayground) -> None:
    address = urlsplit(playground.url)
    with socket.create_connection((address.hostname, address.port), timeout=5) as connection:
        head = f"POST {CHECKOUT}/restart HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n"
        connection.sendall(head.encode() + b"half")
        connection.shutdown(socket.SHUT_WR)
        assert connection.recv(100) == b""
    assert playground.get("/calls")["calls"] == []


def test_a_call_in_hand_is_answered_before_it_stops(playground: RunningPlayground) -> None:
    playground.fail_next(kind="slow", delay=0.5)
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(playground.post, f"{CHECKOUT}/restart")
        while not playground.get("/calls")["calls"]:
            pass
        assert playground.stop() == 0
        assert answer.result().status_code == 200


def test_keeps_its_state_over_a_restart(tmp_path: Path) -> None:
    file = tmp_path / "state.json"
    with running_playground("--state", str(file)) as playground:
        playground.post(f"{CHECKOUT}/deploy", {"version": "3.0.0"})
        assert playground.stop() == 0
    assert json.loads(file.read_text())["calls"]
    with running_playground("--state", str(file)) as playground:
        assert playground.service("staging", "checkout")["version"] == "3.0.0"


def test_a_port_in_use_is_one_clear_sentence(playground: RunningPlayground) -> None:
    port = str(urlsplit(playground.url).port)
    second = subprocess.run(  # noqa: S603  # our own module
        [sys.executable, "-m", "ops.playground", "--port", port],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=20,
    )
    assert second.returncode == 1
    assert "cannot start" in second.stderr
    assert "Traceback" not in second.stderr
