"""Which hosts HTTP calls may reach: none inside the own network, unless the catalogue names it.

A host name is resolved once, each of its addresses is judged, and the connection goes to an address
that was judged: a name that resolves to something else a moment later gains nothing. It happens
where a connection is opened, so there is no way around it: other ways of writing an address
(``2130706433``, ``0177.0.0.1``, ``[::ffff:127.0.0.1]``) have become addresses by then, and a
redirect opens a connection like any other. After the OWASP cheat sheet "Server-Side Request Forgery
Prevention".
"""

import asyncio
import ipaddress
import socket
from collections.abc import Iterable
from typing import Final
from urllib.parse import urlsplit

import httpcore
import httpx

from agents.runtime.errors import ConfigurationError, PermanentError
from agents.runtime.running import without_effect
from agents.runtime.templates import Template

_Address = ipaddress.IPv4Address | ipaddress.IPv6Address
#: Networks whose last 32 bits are an IPv4 address that a gateway sends the packet on to: RFC 6052
#: and RFC 8215.
_TRANSLATED: Final = tuple(map(ipaddress.IPv6Network, ("64:ff9b::/96", "64:ff9b:1::/48")))
#: Special-purpose networks by IANA's registries that some versions of Python take for public.
_NOT_PUBLIC: Final = tuple(
    map(
        ipaddress.ip_network,
        ("192.0.0.0/24", "192.88.99.0/24", "fec0::/10", "3fff::/20", "5f00::/16"),
    )
)
_PORTS: Final = {"http": 80, "https": 443}


class ForbiddenHostError(PermanentError):
    """A host has an address that calls must not reach; nothing was sent."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason, code="refused")


def is_public(address: str) -> bool:
    """Whether ``address`` is one of the public internet's, and no gateway to one that is not."""
    parsed: _Address = ipaddress.ip_address(address)
    if not parsed.is_global or parsed.is_multicast:
        return False
    if any(parsed in network for network in _NOT_PUBLIC):
        return False
    if isinstance(parsed, ipaddress.IPv4Address):
        return True
    inner = parsed.ipv4_mapped or parsed.sixtofour
    if inner is None and any(parsed in network for network in _TRANSLATED):
        inner = ipaddress.IPv4Address(int(parsed) & 0xFFFF_FFFF)
    return inner is None or is_public(str(inner))


class NetworkGuard:
    """Judges hosts.

    Args:
        private_hosts: What the catalogue allows, as host, host:port or URL.
        values: What ``${settings.name}`` stands for in them.

    Raises:
        ConfigurationError: One of them names no host.
    """

    def __init__(self, private_hosts: Iterable[str], values: dict[str, str] | None = None) -> None:
        self._allowed = frozenset(
            _read_host(Template.parse(text).render({}, values or {})) for text in private_hosts
        )

    def allows_private(self, host: str, port: int) -> bool:
        """Whether the catalogue names this host, so that its address may be private."""
        name = host.lower().rstrip(".")
        return (name, port) in self._allowed or (name, None) in self._allowed

    async def addresses(self, host: str, port: int) -> list[str]:
        """The addresses of ``host``, each of which may be reached.

        Raises:
            ForbiddenHostError: One of them may not.
            OSError: The name cannot be resolved.
        """
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        addresses = list(dict.fromkeys(str(sockaddr[0]) for *_, sockaddr in found))
        if not self.allows_private(host, port):
            for address in addresses:
                if not is_public(address):
                    named = address if address == host else f"{host} ({address})"
                    raise ForbiddenHostError(
                        f"{named} is no public address, and private_hosts of the catalogue does "
                        f"not name {host}:{port}"
                    )
        return addresses


class GuardedBackend(httpcore.AsyncNetworkBackend):
    """Opens connections to addresses that the guard has judged."""

    def __init__(self, guard: NetworkGuard) -> None:
        self._guard = guard
        self._inner = httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109  # httpcore's signature
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Connect to the first address of ``host`` that answers.

        Raises:
            ForbiddenHostError: The host must not be reached.
            httpcore.ConnectError: It has no address, or none answers.
            httpcore.ConnectTimeout: Time is up.
        """
        try:
            with without_effect():
                async with asyncio.timeout(timeout):
                    return await self._connect(host, port, local_address, socket_options)
        except TimeoutError as error:
            raise httpcore.ConnectTimeout(f"no connection within {timeout:g} s") from error

    async def _connect(
        self,
        host: str,
        port: int,
        local_address: str | None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None,
    ) -> httpcore.AsyncNetworkStream:
        try:
            addresses = await self._guard.addresses(host, port)
        except (OSError, UnicodeError) as error:
            raise httpcore.ConnectError(f"{host} cannot be resolved: {error}") from error
        failure = httpcore.ConnectError(f"{host} has no address")
        for address in addresses:
            try:
                return await self._inner.connect_tcp(
                    address, port, local_address=local_address, socket_options=socket_options
                )
            except httpcore.ConnectError as error:
                failure = error
        raise failure


class GuardedTransport(httpx.AsyncHTTPTransport):
    """httpx's transport on connections of :class:`GuardedBackend`, and without a proxy."""

    def __init__(self, guard: NetworkGuard, limits: httpx.Limits) -> None:
        super().__init__(trust_env=False, limits=limits)
        # httpx has no argument for it; that nothing gets around the guard is tested.
        self._pool = httpcore.AsyncConnectionPool(
            ssl_context=httpx.create_ssl_context(trust_env=False),
            max_connections=limits.max_connections,
            max_keepalive_connections=limits.max_keepalive_connections,
            keepalive_expiry=limits.keepalive_expiry,
            network_backend=GuardedBackend(guard),
        )


def _read_host(text: str) -> tuple[str, int | None]:
    """Host and port that an entry of ``private_hosts`` means; without a port it means all."""
    try:
        parts = urlsplit(text if "://" in text else f"//{text}")
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise ConfigurationError(f"{text!r} among private_hosts names no host: {error}") from error
    if not host:
        raise ConfigurationError(f"{text!r} among private_hosts names no host")
    return host.rstrip("."), port or _PORTS.get(parts.scheme)
