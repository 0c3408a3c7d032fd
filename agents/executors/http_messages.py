"""HTTP requests and answers as executors see them, and where a redirect may lead."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from http import HTTPStatus
from typing import Final

import httpx

from agents.executors.network_guard import ForbiddenHostError, NetworkGuard

REDIRECTED_METHODS: Final = frozenset({"GET", "HEAD"})
"""Methods whose redirects may be followed: those that ask, and change nothing."""
_PORTS: Final = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class Request:
    """What to send, and which answers mean that it was done."""

    method: str
    url: str
    headers: Mapping[str, str]
    body: bytes | None
    expect: Collection[int]
    """Statuses of success; empty stands for all from 200 to 299."""
    timeout: float
    """Seconds for each wait on the network."""
    redirects: int = 0
    """How many redirects are followed; only for :data:`REDIRECTED_METHODS`."""
    shown_as: str | None = None
    """What errors say in place of the URL, where knowing that is all it takes to call it."""

    @property
    def target(self) -> str:
        """What errors call the request; never its query, which may hold what nobody may see."""
        return f"{self.method} {self.shown_as or self.url.partition('?')[0]}"

    def is_expected(self, status: int) -> bool:
        """Whether ``status`` means that it was done."""
        if self.expect:
            return status in self.expect
        return HTTPStatus.OK <= status < HTTPStatus.MULTIPLE_CHOICES


@dataclass(frozen=True, slots=True)
class Response:
    """An expected answer."""

    status: int
    body: bytes


@dataclass(frozen=True, slots=True)
class Redirect:
    """An answer that says to ask elsewhere."""

    location: str


def redirected(request: Request, location: str, guard: NetworkGuard) -> Request:
    """The request to make because ``request`` was answered with a redirect to ``location``.

    To another origin go neither headers nor anything else that was meant for the first one.

    Raises:
        ForbiddenHostError: It leads to a private host other than the one that was called, although
            the catalogue lets its own actions call that; or from https to http; or it is no URL of
            a website.
    """
    try:
        before, url = httpx.URL(request.url), httpx.URL(request.url).join(location)
        same_origin = _origin(url) == _origin(before)
    except (httpx.InvalidURL, ValueError) as error:  # of a host, too, that IDNA does not know
        raise ForbiddenHostError(f"{request.target} redirects to what is no URL") from error
    target = f"{url.scheme}://{url.netloc.decode()}"
    if url.scheme not in _PORTS or url.userinfo or not url.host:
        raise ForbiddenHostError(f"{request.target} redirects to {url.scheme}, not to a website")
    if before.scheme == "https" and url.scheme == "http":
        raise ForbiddenHostError(f"{request.target} redirects from https to {target}")
    if not same_origin and guard.allows_private(url.host, url.port or _PORTS[url.scheme]):
        raise ForbiddenHostError(f"{request.target} redirects to the private host {target}")
    return replace(
        request,
        url=str(url),
        headers=request.headers if same_origin else {"accept": "application/json"},
        body=request.body if same_origin else None,
        redirects=request.redirects - 1,
        shown_as=request.shown_as if same_origin else None,
    )


def _origin(url: httpx.URL) -> tuple[str, str, int | None]:
    return url.scheme, url.host, url.port
