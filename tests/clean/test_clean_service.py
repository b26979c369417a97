"""The service with what a deployment chooses: its company table, its languages."""

from __future__ import annotations

import threading
from contextlib import closing
from pathlib import Path

import pytest

from services.clean.service import serve
from services.runtime import Context
from services.settings import Settings, settings_of
from services.stream.bus import Outgoing, Record
from services.stream.errors import Misconfigured
from services.stream.events import CleanText, RawText, RejectedText, decode, encode
from services.stream.topics import CLEAN, RAW, REJECTED

GERMAN = "Die Aktie des Konzerns fiel nach der Gewinnwarnung um zehn Prozent"


def made_of(settings: Settings, texts: list[str]) -> tuple[list[CleanText], list[RejectedText]]:
    """What the service publishes of `texts`."""
    context = Context(settings, "clean")
    with closing(settings.open_bus("test")) as bus:
        bus.create_topics()
        bus.publish([Outgoing(RAW, b"", encode(RawText(text=text))) for text in texts])
        reader = bus.reader([CLEAN, REJECTED])
        thread = threading.Thread(target=serve, args=(context,))
        thread.start()
        try:
            records: list[Record] = []
            while len(records) < len(texts):
                found = reader.poll(20)
                assert found
                records.extend(found)
        finally:
            reader.close()
            context.stop.set()
            thread.join(timeout=30)
    return (
        [decode(CleanText, record.value) for record in records if record.topic == CLEAN],
        [decode(RejectedText, record.value) for record in records if record.topic == REJECTED],
    )


def test_a_users_company_table_is_used(database: str, valkey_url: str, tmp_path: Path) -> None:
    table = tmp_path / "mine.csv"
    table.write_text("ticker,names\nHLNX,Halden Optics|Halden?\n")
    settings = settings_of({"database": database, "redis": valkey_url, "companies": str(table)})
    ((text,), _) = made_of(settings, ["Halden Optics soars, Apple Inc falls"])
    assert text.tickers == ("HLNX",)


def test_the_languages_that_pass_are_a_setting(database: str, valkey_url: str) -> None:
    settings = settings_of({"database": database, "redis": valkey_url, "languages": "de, ZH"})
    clean, rejected = made_of(settings, [GERMAN, "Shares of the bank fell after the results"])
    assert [(text.language, text.text) for text in clean] == [("de", GERMAN)]
    assert [(text.reason, text.detail) for text in rejected] == [("language", "en")]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"languages": "en,xx"}, "TICKERLOOP_LANGUAGES: no text is found to be 'xx'; .* de, el, en,"),
        ({"languages": ""}, "TICKERLOOP_LANGUAGES"),
        ({"companies": "/nowhere.csv"}, "/nowhere.csv is no company table"),
    ],
)
def test_bad_settings_are_named(database: str, valkey_url: str, given: dict[str, str], message: str) -> None:
    with pytest.raises(Misconfigured, match=message):
        serve(Context(settings_of({"database": database, "redis": valkey_url, **given}), "clean"))
