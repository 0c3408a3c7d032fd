"""Which hosts HTTP calls may reach."""

import asyncio
import socket
from collections.abc import Iterable
from typing import Any

import httpcore
import pytest

from agents.executors.http_messages import Request, redirected
from agents.executors.network_guard import (
    ForbiddenHostError,
    GuardedBackend,
    NetworkGuard,
    is_public,
)
from agents.runtime.errors import ConfigurationError

PUBLIC, OTHER_PUBLIC = "93.184.215.14", "2606:2800:21f:cb07:6820:80da:af6b:8b2c"


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "127.8.8.8",
        "0.0.0.0",  # noqa: S104  # an address to refuse, not to bind to
        "0.1.2.3",
        "10.0.0.1",
        "172.16.0.1",
        "172.31.255.255",
        "192.168.1.1",
        "100.64.0.1",
        "169.254.169.254",
        "192.0.0.8",
        "192.0.2.1",
        "198.18.0.1",
        "224.0.0.1",
        "239.255.255.255",
        "240.0.0.1",
        "255.255.255.255",
        "::",
        "::1",
        "::ffff:127.0.0.1",
        "::ffff:a9fe:a9fe",
        "::ffff:10.0.0.1",
        "64:ff9b::7f00:1",
        "64:ff9b::169.254.169.254",
        "64:ff9b:1::10.0.0.1",
        "2002:7f00:1::",
        "2002:a9fe:a9fe::1",
        "2001::1",
        "fc00::1",
        "fd12:3456::1",
        "fe80::1",
        "fe80::1%eth0",
        "fec0::1",
        "ff02::1",
        "ff0e::1",
        "2001:db8::1",
    ],
)
def test_an_address_that_is_not_the_public_internets_is_private(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize(
    "address", [PUBLIC, OTHER_PUBLIC, "1.1.1.1", "64:ff9b::8.8.8.8", "2002:808:808::1"]
)
def test_other_addresses_are_public(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize(
    ("entry", "host", "port", "is_allowed"),
    [
        ("10.1.2.3", "10.1.2.3", 8080, True),
        ("10.1.2.3:8080", "10.1.2.3", 8080, True),
        ("10.1.2.3:8080", "10.1.2.3", 22, False),
        ("Internal.example", "internal.EXAMPLE.", 443, True),
        ("https://internal.example/x", "internal.example", 443, True),
        ("https://internal.example", "internal.example", 80, False),
        ("[::1]:80", "::1", 80, True),
        ("internal.example", "evil.internal.example", 80, False),
        ("internal.example", "internal.example.evil", 80, False),
        ("${settings.playground_url}", "127.0.0.1", 8099, True),
        ("${settings.playground_url}", "127.0.0.1", 5432, False),
    ],
)
def test_the_catalogue_names_private_hosts(
    entry: str, host: str, port: int, is_allowed: bool
) -> None:
    guard = NetworkGuard((entry,), {"playground_url": "http://127.0.0.1:8099"})
    assert guard.allows_private(host, port) is is_allowed


@pytest.mark.parametrize("entry", ["http://", "host:port", "[::1", "/path"])
def test_an_entry_that_names_no_host_is_refused(entry: str) -> None:
    with pytest.raises(ConfigurationError, match="names no host"):
        NetworkGuard((entry,))


class Resolver:
    """Stands in for the system's resolver, with an answer for each time it is asked."""

    def __init__(self, *answers: Iterable[str]) -> None:
        self.answers = [list(answer) for answer in answers]

    async def getaddrinfo(self, _host: str, port: int, **_: Any) -> list[Any]:
        return [
            (socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))
            for address in self.answers.pop(0)
        ]


class Dialler(httpcore.AnyIOBackend):
    """Connects to nothing, and remembers where it was told to connect to."""

    def __init__(self, *unreachable: str) -> None:
        self.dialled: list[str] = []
        self.unreachable = unreachable

    async def connect_tcp(self, host: str, port: int, **_: Any) -> Any:  # noqa: ARG002  # httpcore's name
        self.dialled.append(host)
        if host in self.unreachable:
            raise httpcore.ConnectError(host)
        return None


def backend(
    monkeypatch: pytest.MonkeyPatch, resolver: Resolver, dialler: Dialler, *allowed: str
) -> GuardedBackend:
    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", resolver.getaddrinfo)
    guarded = GuardedBackend(NetworkGuard(allowed))
    guarded._inner = dialler
    return guarded


async def test_a_name_is_resolved_once_and_the_address_that_was_judged_is_dialled(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    resolver, dialler = Resolver([PUBLIC], ["127.0.0.1"]), Dialler()
    await backend(monkeypatch, resolver, dialler).connect_tcp("rebinding.example", 80)
    assert dialler.dialled == [PUBLIC]
    assert resolver.answers == [["127.0.0.1"]]


async def test_one_private_address_among_public_ones_is_enough_to_refuse(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    dialler = Dialler()
    guarded = backend(monkeypatch, Resolver([PUBLIC, "10.0.0.1"]), dialler)
    with pytest.raises(ForbiddenHostError, match=r"10\.0\.0\.1.*private_hosts"):
        await guarded.connect_tcp("mixed.example", 80)
    assert dialler.dialled == []


async def test_a_host_that_the_catalogue_names_may_be_private(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    dialler = Dialler()
    guarded = backend(monkeypatch, Resolver(["10.0.0.1"]), dialler, "mixed.example")
    await guarded.connect_tcp("mixed.example", 80)
    assert dialler.dialled == ["10.0.0.1"]


async def test_the_next_address_is_tried_where_one_does_not_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    dialler = Dialler(PUBLIC)
    guarded = backend(monkeypatch, Resolver([PUBLIC, OTHER_PUBLIC], [PUBLIC]), dialler)
    await guarded.connect_tcp("two.example", 80)
    assert dialler.dialled == [PUBLIC, OTHER_PUBLIC]
    with pytest.raises(httpcore.ConnectError):
        await guarded.connect_tcp("two.example", 80)


async def test_a_resolver_that_never_answers_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    async def forever(*_: Any, **__: Any) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", forever)
    with pytest.raises(httpcore.ConnectTimeout):
        await GuardedBackend(NetworkGuard(())).connect_tcp("slow.example", 80, timeout=0.05)


# --- where a redirect may lead


def request(url: str = "https://api.example/v1/x?q=1", **fields: Any) -> Request:
    headers = {"accept": "application/json", "authorization": "Bearer x"}
    return Request("GET", url, headers, b"{}", (), 5.0, redirects=3, **fields)


def test_a_redirect_within_the_origin_keeps_what_was_sent() -> None:
    there = redirected(request(), "../v2/y", NetworkGuard(()))
    assert there.url == "https://api.example/v2/y"
    assert there.headers == request().headers
    assert there.redirects == 2


@pytest.mark.parametrize(
    "location", ["https://other.example/", "https://api.example:8443/", "//e/"]
)
def test_another_origin_hears_nothing_that_was_meant_for_the_first(location: str) -> None:
    there = redirected(request(shown_as="the webhook of #x"), location, NetworkGuard(()))
    assert there.headers == {"accept": "application/json"}
    assert (there.body, there.shown_as) == (None, None)


@pytest.mark.parametrize(
    "location",
    [
        "http://api.example/",
        "file:///etc/passwd",
        "gopher://api.example/",
        "javascript:1",
        "https://user:word@api.example/",
        "https://[::1/",
        "http://10.0.0.1:8080/",
        "https://10.0.0.1:8080/",
        "https://xn--/",
    ],
)
def test_a_redirect_that_leads_elsewhere_is_refused(location: str) -> None:
    with pytest.raises(ForbiddenHostError, match="redirects"):
        redirected(request(), location, NetworkGuard(("10.0.0.1:8080",)))
