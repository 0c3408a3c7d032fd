"""The playground's HTTP side: routes as plain functions, served by aiohttp from one thread."""

import asyncio
import re
import socket
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import unquote

from aiohttp import web

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
_GRACE: Final = 1.0
"""Seconds that calls in hand may take to end when the server stops, before they are cancelled."""
_BACKLOG: Final = 1024
"""Connections that may wait to be accepted. Of a burst of more, Linux drops some whose clients
believe that they are connected and have sent their request: nobody could say what became of it."""
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


class Playground:
    """The server. One thread does one call after the other, so the world needs no lock.

    Args:
        address: Host and port, taken at once; port 0 takes a free one, see :attr:`port`.
        world: The state.

    Raises:
        OSError: The address cannot be listened on.
    """

    def __init__(self, address: tuple[str, int], world: World) -> None:
        self.world = world
        self._is_unsaved = False
        self._socket = socket.create_server(address, backlog=_BACKLOG)

    @property
    def port(self) -> int:
        """The port that it listens on."""
        return int(self._socket.getsockname()[1])

    async def serve(self, until: asyncio.Event) -> None:
        """Answer calls, and save now and then what has changed.

        Args:
            until: Once it is set, no more calls are taken, those in hand end, and all is saved.
        """
        application = web.Application(client_max_size=_MAX_BODY)
        # Every path leads here: aiohttp's own router would have its own words for a wrong one.
        application.router.add_route("*", r"/{path:[\s\S]*}", self._handle)
        runner = web.AppRunner(application, access_log=None, shutdown_timeout=_GRACE)
        await runner.setup()
        try:
            await web.SockSite(runner, self._socket, backlog=_BACKLOG).start()
            while not until.is_set():
                with suppress(TimeoutError):
                    await asyncio.wait_for(until.wait(), _SAVE_INTERVAL)
                self._save()
        finally:
            await runner.cleanup()
            self._save()

    def _save(self) -> None:
        if self._is_unsaved:
            self.world.save()
        self._is_unsaved = False

    def answer(self, method: str, path: str, body: bytes, key: str | None) -> tuple[_Answer, float]:
        """Do what a call asks for: the answer, and the seconds to hold it back.

        An answer with status 0 means: cut the connection.
        """
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

    async def _handle(self, request: web.Request) -> web.Response:
        try:
            body = await _body(request)
        except PlaygroundError as error:
            return _response(_error(error.status, error.code, str(error)))
        except ConnectionError:
            return web.Response()  # the client hung up halfway: nothing to do, nobody to tell
        # As it was sent: a quoted slash belongs to a name.
        path = request.rel_url.raw_path
        key = request.headers.get("Idempotency-Key")
        answer, delay = self.answer(request.method, path, body, key)
        if delay:
            await asyncio.sleep(delay)
        if answer.status == 0:
            if request.transport is not None:
                request.transport.close()
            return web.Response()  # aiohttp wants one; nothing of it goes out any more
        return _response(answer)


async def _body(request: web.Request) -> bytes:
    """What was sent with a call.

    Raises:
        PlaygroundError: It is too large; of one that says so beforehand, nothing is read.
    """
    if (request.content_length or 0) <= _MAX_BODY:
        with suppress(web.HTTPRequestEntityTooLarge):
            return await request.read()
    raise PlaygroundError(413, "body_too_large", f"a body has at most {_MAX_BODY} bytes")


def _response(answer: _Answer) -> web.Response:
    if answer.body is None:
        return web.Response(status=answer.status, headers=answer.headers)
    return web.json_response(answer.body, status=answer.status, headers=answer.headers)


def _error(status: int, code: str, message: str, **headers: str) -> _Answer:
    return _Answer(status, {"error": {"code": code, "message": message}}, headers)


def _refusal(fault: Fault) -> _Answer:
    headers = {} if fault.retry_after is None else {"Retry-After": f"{fault.retry_after:g}"}
    return _error(fault.status, "fault", "the playground was told to fail", **headers)
