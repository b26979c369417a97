"""Fetching from strangers: where connections may go, and what a server can make us wait for or hold."""

from __future__ import annotations

import gzip
import ipaddress
import socket
import threading
import time
import zlib
from collections.abc import Iterator

import httpcore
import httpx
import pytest
from feed_host import Host, Reply, Request, host

from services.ingest.entries import parse_apart
from services.ingest.fetch import Fetcher, Limits, read
from services.ingest.guard import Refused, Unreachable, is_public
from services.ingest.robots import MAX_BYTES, Robots
from services.stream.events import MAX_TEXT_CHARS, RawText

QUICK = Limits(connect_s=1, read_s=0.5, total_s=1.5, size=100_000, redirects=3)


@pytest.fixture
def server() -> Iterator[Host]:
    with host() as found:
        yield found


@pytest.fixture
def connections(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every address a connection is attempted to."""
    made: list[str] = []
    connect = socket.create_connection

    def recorded(address: tuple[str, int], *rest: object, **more: object) -> socket.socket:
        made.append(address[0])
        return connect(address, *rest, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(socket, "create_connection", recorded)
    return made


def get(address: str, allow_private: bool = True, limits: Limits = QUICK) -> bytes:
    return Fetcher(allow_private, limits).get(address, {}, lambda _: None).body


@pytest.mark.parametrize(
    "address",
    [
        "http://127.0.0.1/",
        "http://localhost/",
        "http://[::1]/",
        "http://169.254.169.254/latest/meta-data/",
        "http://10.1.2.3/",
        "http://192.168.0.1/",
        "http://172.16.0.1/",
        "http://100.64.0.1/",
        "http://0.0.0.0/",
        "http://2130706433/",
        "http://0177.0.0.1/",
        "http://0x7f.1/",
        "http://127.1/",
        "http://[::ffff:10.0.0.1]/",
        "http://[64:ff9b::7f00:1]/",
        "http://[2002:7f00:1::]/",
        "http://[fe80::1]/",
        "http://[fd00::1]/",
        "http://224.0.0.1/",
        "https://127.0.0.1/",
    ],
)
def test_private_addresses_are_refused_before_any_connection(address: str, connections: list[str]) -> None:
    with pytest.raises(Refused, match=r"not a public address|is no address"):
        get(address, allow_private=False)
    assert connections == []


@pytest.mark.parametrize(
    "address",
    [
        "file:///etc/passwd",
        "ftp://example.com/",
        "gopher://example.com/",
        "http:///x",
        "http://u:p@example.com/",
        "x",
        "http://[::1",
    ],
)
def test_only_plain_http_addresses_are_fetched(address: str, connections: list[str]) -> None:
    with pytest.raises(Refused):
        get(address)
    assert connections == []


def test_public_addresses_are_public() -> None:
    assert all(is_public(ipaddress.ip_address(a)) for a in ("1.1.1.1", "2606:4700::1111", "::ffff:1.1.1.1"))


def test_one_private_address_among_public_ones_is_enough(
    monkeypatch: pytest.MonkeyPatch, connections: list[str]
) -> None:
    entries = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (a, 80)) for a in ("1.1.1.1", "10.0.0.1")]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: entries)
    with pytest.raises(Refused, match=r"10\.0\.0\.1"):
        get("http://rebind.example/", allow_private=False)
    assert connections == []


def test_the_address_that_was_judged_is_the_one_connected_to(monkeypatch: pytest.MonkeyPatch) -> None:
    """DNS rebinding: the second answer, a private one, must never be asked for."""
    answers = iter(["1.1.1.1", "127.0.0.1"])
    entry = (socket.AF_INET, socket.SOCK_STREAM, 6, "")
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: [(*entry, (next(answers), 80))])
    asked: list[str] = []

    def connect(_: object, address: str, *__: object) -> httpcore.NetworkStream:
        asked.append(address)
        raise httpcore.ConnectError("not in a test")

    monkeypatch.setattr(httpcore.SyncBackend, "connect_tcp", connect)
    with pytest.raises(Unreachable, match="not in a test"):
        get("http://rebind.example/", allow_private=False)
    assert asked == ["1.1.1.1"]


def test_a_redirect_to_a_private_address_is_refused(
    server: Host, monkeypatch: pytest.MonkeyPatch, connections: list[str]
) -> None:
    """The first hop is made to look public; the second names the loopback itself."""
    monkeypatch.setattr(
        "services.ingest.guard.is_public", lambda address: str(address) == "127.0.0.1" and not server.asked("/public")
    )
    server.replies["/public"] = Reply(status=302, headers={"Location": server.address + "/private"})
    server.replies["/private"] = Reply(b"secret")
    with pytest.raises(Refused):
        get(server.address + "/public", allow_private=False)
    assert connections == ["127.0.0.1"]
    assert server.asked("/private") == []


@pytest.mark.parametrize("target", ["file:///etc/passwd", "http://user@127.0.0.1/", "http://[::1"])
def test_a_redirect_to_what_is_no_web_address_is_refused(server: Host, target: str) -> None:
    server.replies["/"] = Reply(status=301, headers={"Location": target})
    with pytest.raises(Refused):
        get(server.address + "/")


def test_redirects_are_followed_and_counted(server: Host) -> None:
    server.replies["/a"] = Reply(status=307, headers={"Location": "b"})
    server.replies["/b"] = Reply(b"there")
    assert get(server.address + "/a") == b"there"
    server.replies["/b"] = Reply(status=302, headers={"Location": "/a"})
    with pytest.raises(Unreachable, match="more than 3 redirects"):
        get(server.address + "/a")


def test_size_is_bounded_whatever_the_server_says(server: Host) -> None:
    server.replies["/"] = Reply(b"x" * 100_001)
    with pytest.raises(Unreachable, match="larger than 100,000 bytes"):
        get(server.address + "/")
    server.replies["/"] = Reply(b"x" * 100_000)
    assert len(get(server.address + "/")) == 100_000


def test_a_gzip_bomb_is_not_inflated(server: Host) -> None:
    bomb = gzip.compress(b"\0" * 50_000_000)
    assert len(bomb) < QUICK.size
    server.replies["/"] = Reply(bomb, headers={"Content-Encoding": "gzip"})
    with pytest.raises(Unreachable, match="larger than"):
        get(server.address + "/")
    server.replies["/"] = Reply(gzip.compress(bomb), headers={"Content-Encoding": "gzip, gzip"})
    with pytest.raises(Unreachable, match="not asked for"):
        get(server.address + "/")


def test_compression_is_read_and_damage_is_noticed() -> None:
    text = b"text " * 1000
    for encoding, packed in {"gzip": gzip.compress(text), "deflate": zlib.compress(text), "identity": text}.items():
        headers = httpx.Headers({"content-encoding": encoding})
        assert read([packed[:10], packed[10:]], headers, 10_000) == text
    with pytest.raises(Unreachable, match="cut short"):
        read([gzip.compress(text)[:-9]], httpx.Headers({"content-encoding": "gzip"}), 10_000)
    with pytest.raises(Unreachable, match="damaged"):
        read([b"nonsense"], httpx.Headers({"content-encoding": "gzip"}), 10_000)


def test_a_server_that_drips_is_left_in_time(server: Host) -> None:
    server.replies["/"] = Reply(b"x" * 1000, drip_s=0.1)
    started = time.monotonic()
    with pytest.raises(Unreachable, match=r"not finished within|doesn't answer in time"):
        get(server.address + "/")
    assert time.monotonic() - started < 3


def test_headers_that_drip_are_left_in_time() -> None:
    listener = socket.create_server(("127.0.0.1", 0))

    def drip() -> None:
        connection, _ = listener.accept()
        try:
            for byte in b"HTTP/1.1 200 OK\r\nX: " + b"y" * 1000:
                connection.send(bytes([byte]))
                time.sleep(0.1)
        except OSError:
            connection.close()

    threading.Thread(target=drip, daemon=True).start()
    started = time.monotonic()
    with pytest.raises(Unreachable, match=r"not finished within|doesn't answer in time"):
        get(f"http://127.0.0.1:{listener.getsockname()[1]}/")
    assert time.monotonic() - started < 3
    listener.close()


def test_silence_and_closed_ports_are_reported(server: Host) -> None:
    def slow(_: Request) -> Reply:
        time.sleep(1)
        return Reply()

    server.replies["/"] = slow
    with pytest.raises(Unreachable, match="doesn't answer in time"):
        get(server.address + "/")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(Unreachable, match="refused"):
        get(f"http://127.0.0.1:{port}/")


def test_of_large_robots_the_start_counts(server: Host) -> None:
    rules = b"User-agent: *\nDisallow: /private\n"
    server.replies["/robots.txt"] = Reply(rules + b"# and so on\n" * 60_000)
    robots = Robots(Fetcher(True, QUICK))
    robots.check(httpx.URL(f"{server.address}/public"))
    with pytest.raises(Refused, match="disallows /private"):
        robots.check(httpx.URL(f"{server.address}/private"))


def test_robots_are_asked_once_and_obeyed(server: Host) -> None:
    server.replies["/robots.txt"] = Reply(b"User-agent: tickerloop\nDisallow: /private\nCrawl-delay: 7\n")
    robots = Robots(Fetcher(True, QUICK))
    robots.check(httpx.URL(server.address + "/feed"))
    with pytest.raises(Refused, match="disallows /private/x"):
        robots.check(httpx.URL(server.address + "/private/x"))
    assert robots.delay(httpx.URL(server.address + "/feed")) == 7
    assert len(server.asked("/robots.txt")) == 1
    server.replies["/robots.txt"] = Reply(status=503)
    with pytest.raises(Unreachable, match="answers 503"):
        Robots(Fetcher(True, QUICK)).check(httpx.URL(server.address + "/feed"))
    server.replies["/robots.txt"] = Reply(status=403)
    Robots(Fetcher(True, QUICK)).check(httpx.URL(server.address + "/feed"))


def test_a_rule_that_is_cut_short_is_none(server: Host) -> None:
    rules = b"User-agent: *\nDisallow: /private\n"
    filler = b"#" * (MAX_BYTES - len(rules) - len(b"\nDisallow: /"))
    server.replies["/robots.txt"] = Reply(rules + filler + b"\nDisallow: /of-old\n")
    robots = Robots(Fetcher(True, QUICK))
    robots.check(httpx.URL(f"{server.address}/public"))


# ── documents ───────────────────────────────────────────────────────────────────────────────────────────────────────


def laughs() -> bytes:
    levels = "".join(f'<!ENTITY lol{n} "{f"&lol{n - 1};" * 10}">\n' for n in range(1, 12))
    return (
        f'<?xml version="1.0"?>\n<!DOCTYPE l [\n<!ENTITY lol0 "lol">\n{levels}]>\n<rss version="2.0"><channel>'
        "<item><guid>1</guid><description>&lol11;</description></item></channel></rss>"
    ).encode()


def quadratic() -> bytes:
    return (
        b'<?xml version="1.0"?>\n<!DOCTYPE l [\n<!ENTITY a "' + b"x" * 100_000 + b'">\n]>\n<rss version="2.0"><channel>'
        b"<item><guid>1</guid><description>" + b"&a;" * 100_000 + b"</description></item></channel></rss>"
    )


@pytest.mark.parametrize("bomb", [laughs(), quadratic()], ids=["laughs", "quadratic"])
def test_an_entity_bomb_does_not_go_off(bomb: bytes) -> None:
    started = time.monotonic()
    try:
        texts = parse_apart(bomb, "application/xml", "http://x.example/", "x").texts
    except Unreachable:
        texts = []
    assert sum(len(text.text) for text in texts) < 1_000
    assert time.monotonic() - started < 20


def test_external_entities_are_not_read() -> None:
    body = (
        b'<?xml version="1.0"?><!DOCTYPE r [<!ENTITY x SYSTEM "file:///etc/passwd">]><rss version="2.0"><channel>'
        b"<item><guid>1</guid><title>t</title><description>a &x; b</description></item></channel></rss>"
    )
    parsed = parse_apart(body, "application/xml", "http://x.example/", "x")
    assert "root:" not in str(parsed)


@pytest.mark.parametrize("body", [b"/etc/passwd", b"http://127.0.0.1/", b"<html><p>no feed</p></html>", b""])
def test_what_is_no_feed_is_not_opened(body: bytes) -> None:
    with pytest.raises(Unreachable, match="neither RSS nor Atom"):
        parse_apart(body, "text/plain", "http://x.example/", "x")


def test_atom_and_odd_entries() -> None:
    atom = (
        '<feed xmlns="http://www.w3.org/2005/Atom"><title>F</title>'
        '<entry><id>tag:1</id><title>One</title><link href="/one"/><updated>2024-01-05T10:00:00Z</updated>'
        '<summary>short</summary><content type="html">&lt;p&gt;long&lt;/p&gt;</content></entry>'
        "<entry><title>Only a title</title></entry><entry><id>empty</id></entry>"
        f"<entry><id>{'i' * 600}</id><title>t</title><summary>{'x' * (MAX_TEXT_CHARS + 1)}</summary></entry>"
        "</feed>"
    )
    parsed = parse_apart(atom.encode(), "text/html; charset=utf-8", "http://x.example/feed", "x.example")
    assert parsed.texts == [
        RawText(
            text="<p>long</p>",
            source="x.example",
            id="tag:1",
            title="One",
            url="http://x.example/one",
            published="2024-01-05T10:00:00+00:00",
        ),
        RawText(text="Only a title", source="x.example"),
    ]
    assert [problem.reason for problem in parsed.problems] == ["malformed", "oversize"]
