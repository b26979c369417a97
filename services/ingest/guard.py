"""Which hosts feeds may be fetched from, and connections that go nowhere else.

An address is judged after the name is resolved and the very address that was judged is connected to: a name that
answers differently the second time (DNS rebinding), decimal and octal spellings and redirects all meet the same check.
TLS still verifies the name.
"""

from __future__ import annotations

import ipaddress
import socket
import ssl
import time
from collections.abc import Iterable
from typing import Any, Final

import httpcore
from httpcore import SOCKET_OPTION

from services.stream.errors import TickerloopError

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

MAX_ADDRESSES: Final = 3
"""How many of a host's addresses are tried."""

_EMBEDDING: Final = (
    ipaddress.IPv6Network("64:ff9b::/96"),  # NAT64, RFC 6052
    ipaddress.IPv6Network("::/96"),  # IPv4-compatible, RFC 4291
)


class Unreachable(TickerloopError):
    """The document can't be had now: the host, the network or the document is at fault."""


class Refused(Unreachable):
    """We don't want it: a private address, a forbidden path, a scheme that isn't HTTP."""


def is_public(address: Address) -> bool:
    """Whether anyone on the internet would reach the same host under it."""
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour
        if inner is None and any(address in network for network in _EMBEDDING):
            inner = ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF)
        if inner is not None:
            return is_public(inner)
        if address.is_site_local:
            return False
    return address.is_global and not address.is_multicast


def resolve(host: str, port: int, allow_private: bool) -> list[str]:
    """Addresses of `host`, at most `MAX_ADDRESSES`.

    Raises:
        Refused: one of them, even one that wouldn't be used, is not public.
        Unreachable: there is no such host.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise Unreachable(f"{host} can't be resolved: {error}") from None
    addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))
    for address in addresses:
        if not allow_private and not is_public(ipaddress.ip_address(address.partition("%")[0])):
            raise Refused(f"{host} is at {address}, which is not a public address; TICKERLOOP_ALLOW_PRIVATE permits it")
    return addresses[:MAX_ADDRESSES]


class Deadline:
    """A moment after which nothing is waited for."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._at = time.monotonic() + seconds

    def left(self, timeout: float | None) -> float:
        """`timeout`, or less where less is left.

        Raises:
            Unreachable: nothing is left.
        """
        left = self._at - time.monotonic()
        if left <= 0:
            raise Unreachable(f"not finished within {self._seconds:.0f} s")
        return left if timeout is None else min(left, timeout)


class GuardedBackend(httpcore.NetworkBackend):
    """Connects to hosts that `resolve` lets through, and to nothing after the deadline."""

    def __init__(self, allow_private: bool, deadline: Deadline) -> None:
        self._allow_private, self._deadline = allow_private, deadline
        self._backend = httpcore.SyncBackend()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[SOCKET_OPTION] | None = None,
    ) -> httpcore.NetworkStream:
        """See `NetworkBackend`.

        Raises:
            Unreachable: see `resolve`; or none of the addresses answers.
        """
        problem: Exception = Unreachable(f"{host} has no address")
        for address in resolve(host, port, self._allow_private):
            try:
                left = self._deadline.left(timeout)
                stream = self._backend.connect_tcp(address, port, left, local_address, socket_options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                problem = error
                continue
            return _Bounded(stream, self._deadline)
        raise problem


class _Bounded(httpcore.NetworkStream):
    """A stream whose reads and writes end with the deadline: a server that sends a byte a second holds nobody up."""

    def __init__(self, stream: httpcore.NetworkStream, deadline: Deadline) -> None:
        self._stream, self._deadline = stream, deadline

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._stream.read(max_bytes, self._deadline.left(timeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._stream.write(buffer, self._deadline.left(timeout))

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        stream = self._stream.start_tls(ssl_context, server_hostname, self._deadline.left(timeout))
        return _Bounded(stream, self._deadline)

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)
