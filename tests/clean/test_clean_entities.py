"""Tickers by cashtag, exchange prefix and name."""

from __future__ import annotations

from pathlib import Path

import pytest

from services.clean.entities import MAX_TICKERS, load, tickers
from services.stream.errors import Misconfigured

TABLE = load()


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("$AAPL and $aapl, US$5, $50m, $XYZQ", ["AAPL", "XYZQ"]),
        ("$BRK.B and $btc", ["BRK.B", "BTC"]),
        ("Soars (NASDAQ: MSFT); (LSE:VOD), HKEX: 700", ["MSFT", "VOD.L", "0700.HK"]),
        ("NSE: 200 stocks, BSE: Sensex", []),
        ("$RELIANCE NSE:RELIANCE Reliance Industries", ["RELIANCE.NS"]),
        ("HDFC Bank and ICICI Bank's results", ["HDFCBANK.NS", "ICICIBANK.NS"]),
        ("AT&T's profit, Moody's, McDonald’s", ["T", "MCO", "MCD"]),
        ("BANK OF AMERICA BEATS", ["BAC"]),
        ("Bank of Baroda", ["BANKBARODA.NS"]),
        ("Target price raised; target met; Visa rules; apple pie", []),
        ("Target raises outlook", ["TGT"]),
        ("Regulators fined Visa again", ["V"]),
        ("Ships sail on; Gail is a name; fiat money", []),
        ("SAIL and GAIL rise", ["SAIL.NS", "GAIL.NS"]),
        ("Gold steady, crude oil falls, bitcoin up", ["XAU", "WTI", "BTC"]),
        ("She won a gold medal; Reunion Gold reports", []),
        ("腾讯控股涨3%", ["0700.HK"]),
        ("Goldman Sachs and Morgan Stanley", ["GS", "MS"]),
    ],
)
def test_tickers(text: str, found: list[str]) -> None:
    assert list(tickers(text.replace("’", "'"), TABLE)) == found


def test_a_directory_is_capped() -> None:
    text = " ".join(f"${a}{b}Q" for a in "ABCDEFGH" for b in "ABCDEFGH")
    assert len(tickers(text, TABLE)) == MAX_TICKERS


def test_a_users_table_replaces_ours(tmp_path: Path) -> None:
    path = tmp_path / "mine.csv"
    path.write_text("ticker,names\nHLNX,Halden Optics|Halden?\n")
    table = load(str(path))
    assert tickers("Halden Optics soars, Apple Inc too", table) == ("HLNX",)


def test_our_table_names_each_ticker_once() -> None:
    rows = Path("services/clean/companies.csv").read_text().splitlines()[1:]
    assert len(rows) >= 300
    symbols = [row.split(",")[0] for row in rows]
    assert len(symbols) == len(set(symbols))


@pytest.mark.parametrize(
    "content",
    [
        None,
        b"a,b\n1,2\n",
        b"ticker,names\nA\n",
        b"ticker,names\n,Name\n",
        b"ticker,names\nA,?\n",
        b"ticker,names\nA,\xff",
    ],
)
def test_a_bad_table_is_refused_before_any_text(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "bad.csv"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(Misconfigured):
        load(str(path))
