"""One document from a host nobody vouches for: bounded in time, size and hops, and each hop judged anew."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Mapping
from typing import Final, NamedTuple

import httpcore
import httpx

from services.ingest.guard import Deadline, GuardedBackend, Refused, Unreachable

AGENT: Final = "tickerloop"
USER_AGENT: Final = f"{AGENT}/0.1 (feed reader)"
REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})

_ANY_ZLIB: Final = 47
"""Window bits that take gzip and zlib alike (zlib manual, inflateInit2)."""


class Limits(NamedTuple):
    """Seconds, bytes after decompression, hops."""

    connect_s: float = 5.0
    read_s: float = 10.0
    total_s: float = 30.0
    size: int = 5_000_000
    redirects: int = 5


class Answer(NamedTuple):
    """What came back; `url` is where the last redirect led."""

    status: int
    headers: httpx.Headers
    body: bytes
    url: httpx.URL


Check = Callable[[httpx.URL], None]
"""Raises `Unreachable` for an address that must not be fetched."""


class Fetcher:
    """Fetches over HTTP and HTTPS. No cookies, no proxies, no connection is used twice. Fit for many threads."""

    def __init__(self, allow_private: bool, limits: Limits) -> None:
        self._allow_private, self._limits = allow_private, limits
        self._tls = httpx.create_ssl_context()

    def get(self, address: str, headers: Mapping[str, str], check: Check, start: int = 0) -> Answer:
        """Follow `address` to its document; `check` is asked before each hop. `start`: so many of its bytes are enough.

        Raises:
            Refused: a hop leads where we don't go.
            Unreachable: it can't be had.
        """
        deadline = Deadline(self._limits.total_s)
        url = parsed(address)
        for _ in range(self._limits.redirects + 1):
            check(url)
            answer = self._hop(url, headers, start, deadline)
            target = answer.headers.get("location")
            if answer.status not in REDIRECTS or not target:
                return answer
            url = parsed(_join(url, target))
        raise Unreachable(f"more than {self._limits.redirects} redirects")

    def _hop(self, url: httpx.URL, headers: Mapping[str, str], start: int, deadline: Deadline) -> Answer:
        target = httpcore.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path)
        sent = {"User-Agent": USER_AGENT, "Accept-Encoding": "gzip, deflate", "Host": url.netloc.decode(), **headers}
        timeouts = {"connect": self._limits.connect_s, "read": self._limits.read_s, "write": self._limits.read_s}
        try:
            with (
                httpcore.ConnectionPool(
                    ssl_context=self._tls, network_backend=GuardedBackend(self._allow_private, deadline)
                ) as pool,
                pool.stream("GET", target, headers=list(sent.items()), extensions={"timeout": timeouts}) as response,
            ):
                got = httpx.Headers(response.headers)
                if response.status != 200:
                    return Answer(response.status, got, b"", url)
                body = read(response.iter_stream(), got, start or self._limits.size, whole=not start)
                return Answer(response.status, got, body, url)
        except httpcore.TimeoutException:
            raise Unreachable(f"{url.host} doesn't answer in time") from None
        except (httpcore.NetworkError, httpcore.ProtocolError, OSError) as error:
            raise Unreachable(f"{url.host}: {error or type(error).__name__}") from None


def parsed(address: str) -> httpx.URL:
    """An address we may ask for.

    Raises:
        Refused: it isn't plain http:// or https:// with a host.
    """
    try:
        url = httpx.URL(address)
    except (httpx.InvalidURL, UnicodeError) as error:
        raise Refused(f"{address!r} is no address: {error}") from None
    if url.scheme not in ("http", "https") or not url.host:
        raise Refused(f"{address!r}: only http:// and https:// addresses are fetched")
    if url.userinfo:
        raise Refused(f"{url.host}: an address with a user name or password is not fetched")
    return url


def _join(url: httpx.URL, target: str) -> str:
    try:
        return str(url.join(target))
    except (httpx.InvalidURL, UnicodeError) as error:
        raise Refused(f"{url.host} redirects to {target[:200]!r}, which is no address: {error}") from None


def read(chunks: Iterable[bytes], headers: httpx.Headers, limit: int, *, whole: bool = True) -> bytes:
    """The body, decompressed as it comes and never beyond `limit`; where it needn't be `whole`, its start.

    Raises:
        Unreachable: it is larger and has to be whole, cut short, or compressed in a way that we did not ask for.
    """
    encoding = headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ("identity", "", "gzip", "x-gzip", "deflate"):
        raise Unreachable(f"compressed as {encoding[:50]!r}, which was not asked for")
    unpack = None if encoding in ("identity", "") else zlib.decompressobj(_ANY_ZLIB)
    body = bytearray()
    taken = 0
    for chunk in chunks:
        taken += len(chunk)
        try:
            # One byte more than is allowed is enough to know; 0 would mean any number.
            body += chunk if unpack is None else unpack.decompress(chunk, limit + 1 - len(body))
        except zlib.error as error:
            raise Unreachable(f"the compressed document is damaged: {error}") from None
        if max(taken, len(body)) > limit:
            if not whole:
                return bytes(body[:limit])
            raise Unreachable(f"larger than {limit:,} bytes")
    if unpack is not None and not unpack.eof:
        raise Unreachable("the compressed document is cut short")
    return bytes(body)
