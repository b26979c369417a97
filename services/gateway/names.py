"""Under which names the gateway answers, and whether that keeps it to this machine: without an API key it must."""

from __future__ import annotations

from typing import Final

from services.stream.errors import Misconfigured

LOOPBACK: Final = frozenset({"localhost", "127.0.0.1", "::1"})


def answered(bound: str, hosts: str) -> frozenset[str] | None:
    """The names to answer under: those of `hosts`, separated by commas; without any, loopback's on a loopback address
    and all (None) elsewhere."""
    named = frozenset(name.strip().casefold() for name in hosts.split(",")) - {""}
    return named or (LOOPBACK if bound in LOOPBACK else None)


def local(bound: str, hosts: str) -> bool:
    """Whether it serves this machine alone. On loopback, another name than loopback's means a proxy before it."""
    names = answered(bound, hosts)
    return bound in LOOPBACK and names is not None and names <= LOOPBACK


def check_reach(bound: str, hosts: str, keys: bool) -> None:
    """Whether it may serve there; `keys` tells whether there are any.

    Raises:
        Misconfigured: others could reach it, and would need no key.
    """
    if keys or local(bound, hosts):
        return
    where = f"on {bound}" if bound not in LOOPBACK else f"as {hosts} (TICKERLOOP_GATEWAY_HOSTS)"
    raise Misconfigured(
        f"without an API key the gateway serves this machine alone, not {where}: first make one with"
        " `tickerloop keys create NAME --role operator`, against this database or beside a `tickerloop up` on 127.0.0.1"
    )
