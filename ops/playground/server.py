"""The playground's HTTP side, on the standard library's server."""

import json
import re
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final
from urllib.parse import unquote, urlsplit

from ops.playground.world import (
    Deployment,
    Fault,
    Message,
    PlaygroundError,
    Service,
    Size,
    World,
    read,
)

_MAX_BODY: Final = 1_000_000
_SAVE_INTERVAL: Final = 0.5
_SEGMENT: Final = r"([^/]+)"
_SERVICE: Final = rf"/environments/{_SEGMENT}/services/{_SEGMENT}"


@dataclass(frozen=True, slots=True)
class _Answer:
    status: int
    body: Any = None
    headers: Mapping[str, str] | None = None


_Route = Callable[[World, tuple[str, ...], bytes], _Answer]


def _show(service: Service, **more: Any) -> _Answer:
    fields = {"service", "environment", "version", "health", "replicas"}
    return _Answer(200, service.model_dump(include=fields) | more)


def _status(world: World, names: tuple[str, ...], _body: bytes) -> _Answer:
    return _show(world.service(*names))


def _restart(world: World, names: tuple[str, ...], _body: bytes) -> _Answer:
    service = world.service(*names)
    world.restart(service)
    return _show(service, restarted_at=service.restarted_at)


def _deploy(world: World, names: tuple[str, ...], body: bytes) -> _Answer:
    service = world.service(*names)
    world.deploy(service, read(body, Deployment).version)
    return _show(service, previous_version=service.previous_version)


def _rollback(world: World, names: tuple[str, ...], _body: bytes) -> _Answer:
    service = world.service(*names)
    world.rollback(service)
    return _show(service)


def _scale(world: World, names: tuple[str, ...], body: bytes) -> _Answer:
    service = world.service(*names)
    world.scale(service, read(body, Size).replicas)
    return _show(service)


def _remove(world: World, names: tuple[str, ...], _body: bytes) -> _Answer:
    world.remove(world.service(*names))
    return _Answer(204)


def _back_up(world: World, names: tuple[str, ...], _body: bytes) -> _Answer:
    return _Answer(200, world.back_up(*names).model_dump())


def _post_message(world: World, _names: tuple[str, ...], body: bytes) -> _Answer:
    world.state.messages.append(read(body, Message))
    return _Answer(200, {"ok": True})


def _messages(world: World, _names: tuple[str, ...], _body: bytes) -> _Answer:
    return _Answer(200, {"messages": [message.model_dump() for message in world.state.messages]})


def _add_fault(world: World, _names: tuple[str, ...], body: bytes) -> _Answer:
    world.add_fault(read(body, Fault))
    return _Answer(201, {"ok": True})


def _everything(world: World, _names: tuple[str, ...], _body: bytes) -> _Answer:
    return _Answer(200, world.state.model_dump())


def _calls(world: World, _names: tuple[str, ...], _body: bytes) -> _Answer:
    return _Answer(200, world.calls())


def _healthz(_world: World, _names: tuple[str, ...], _body: bytes) -> _Answer:
    return _Answer(200, {"ok": True})


#: Method, path and what answers. Calls of ``EFFECTS`` ask for a change and are recorded.
_READS: Final[tuple[tuple[str, str, _Route], ...]] = (
    ("GET", _SERVICE, _status),
    ("GET", "/messages", _messages),
    ("GET", "/state", _everything),
    ("GET", "/calls", _calls),
    ("GET", "/healthz", _healthz),
    ("POST", "/faults", _add_fault),
)
_EFFECTS: Final[tuple[tuple[str, str, _Route], ...]] = (
    ("POST", rf"{_SERVICE}/restart", _restart),
    ("POST", rf"{_SERVICE}/deploy", _deploy),
    ("POST", rf"{_SERVICE}/rollback", _rollback),
    ("POST", rf"{_SERVICE}/scale", _scale),
    ("DELETE", _SERVICE, _remove),
    ("POST", rf"/environments/{_SEGMENT}/databases/{_SEGMENT}/backup", _back_up),
    ("POST", "/messages", _post_message),
)


def _find(method: str, path: str) -> tuple[_Route, tuple[str, ...], bool]:
    """The route of a call, the names in its path, and whether it asks for a change.

    Raises:
        PlaygroundError: There is no such path, or not for this method.
    """
    allowed: list[str] = []
    for routes, is_effect in ((_READS, False), (_EFFECTS, True)):
        for route_method, pattern, route in routes:
            match = re.fullmatch(pattern, path)
            if match is None:
                continue
            if route_method == method:
                return route, tuple(unquote(name) for name in match.groups()), is_effect
            allowed.append(route_method)
    if allowed:
        raise PlaygroundError(
            405, "wrong_method", f"{path} takes {' or '.join(sorted(allowed))}, not {method}"
        )
    raise PlaygroundError(404, "unknown_path", f"there is nothing at {path}")


class Playground(ThreadingHTTPServer):
    """The server; each connection has a thread, the world has one lock.

    Args:
        address: Host and port; port 0 takes a free one, see :attr:`port`.
        world: The state.
    """

    daemon_threads = True
    # The standard library lets five connections wait. Of a burst of more, Linux drops some whose
    # clients believe that they are connected and have sent their request: nobody could say what
    # became of it.
    request_queue_size = 256

    def __init__(self, address: tuple[str, int], world: World) -> None:
        # Before the base class, which calls server_close() where the port is in use.
        self.world = world
        self._lock = threading.Lock()
        self._is_unsaved = False
        self._saved_at = time.monotonic()
        super().__init__(address, _Handler)

    @property
    def port(self) -> int:
        """The port that it listens on."""
        return int(self.server_address[1])

    def service_actions(self) -> None:
        """Save now and then what has changed; the base class calls this all the time."""
        if time.monotonic() - self._saved_at >= _SAVE_INTERVAL:
            self._save()

    def server_close(self) -> None:
        """Stop listening, and save."""
        super().server_close()
        self._save()

    def _save(self) -> None:
        with self._lock:
            if self._is_unsaved:
                self.world.save()
            self._is_unsaved = False
        self._saved_at = time.monotonic()

    def answer(self, method: str, path: str, body: bytes, key: str | None) -> tuple[_Answer, float]:
        """Do what a call asks for: the answer, and the seconds to hold it back.

        An answer with status 0 means: cut the connection.
        """
        with self._lock:
            fault: Fault | None = None
            took_effect = is_effect = False
            try:
                route, names, is_effect = _find(method, path)
                if "/services/" in path:
                    fault = self.world.next_fault(*names)
                if fault is not None and fault.kind == "refuse":
                    answer = _refusal(fault)
                else:
                    answer = route(self.world, names, body)
                    took_effect = is_effect
            except PlaygroundError as error:
                answer = _error(error.status, error.code, str(error))
            if fault is not None and fault.kind == "cut":
                answer = _Answer(0)
            if is_effect:
                status = answer.status or None
                self.world.record(method, path, key, took_effect=took_effect, status=status)
            self._is_unsaved |= method != "GET"
        return answer, fault.delay if fault is not None and fault.kind == "slow" else 0.0


def _error(status: int, code: str, message: str, **headers: str) -> _Answer:
    return _Answer(status, {"error": {"code": code, "message": message}}, headers)


def _refusal(fault: Fault) -> _Answer:
    headers = {} if fault.retry_after is None else {"Retry-After": f"{fault.retry_after:g}"}
    return _error(fault.status, "fault", "the playground was told to fail", **headers)


class _Handler(BaseHTTPRequestHandler):
    server: Playground
    protocol_version = "HTTP/1.1"
    # Headers and body go out in two writes; without this, Nagle's algorithm holds back the second.
    disable_nagle_algorithm = True
    timeout = 60.0

    def do_GET(self) -> None:
        self._handle()

    def do_POST(self) -> None:
        self._handle()

    def do_DELETE(self) -> None:
        self._handle()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  # the base class names it
        """Say nothing: what happened is at /calls."""

    def _handle(self) -> None:
        length = self.headers.get("Content-Length", "0")
        if not length.isdecimal() or int(length) > _MAX_BODY:
            self.close_connection = True
            self._send(_error(413, "body_too_large", f"a body has at most {_MAX_BODY} bytes"))
            return
        body = self.rfile.read(int(length))
        path = urlsplit(self.path).path
        answer, delay = self.server.answer(
            self.command, path, body, self.headers.get("Idempotency-Key")
        )
        time.sleep(delay)
        if answer.status == 0:
            self.close_connection = True
            return
        self._send(answer)

    def _send(self, answer: _Answer) -> None:
        payload = b"" if answer.body is None else json.dumps(answer.body).encode()
        try:
            self.send_response(answer.status)
            for name, value in (answer.headers or {}).items():
                self.send_header(name, value)
            if answer.status != HTTPStatus.NO_CONTENT:
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(payload)))
            self.end_headers()
            self.wfile.write(payload)
        except ConnectionError:
            self.close_connection = True  # the client has gone; nobody is left to tell
