"""`tickerloop keys`: a key is shown once, kept as a hash, listed without its secret, and ended for good."""

from __future__ import annotations

import hashlib
import json
import re
from contextlib import closing
from typing import Any

import psycopg2
import pytest
from click.testing import CliRunner, Result

from services import keys
from services.cli import main
from services.runtime import now_ms

DAY_MS = 24 * 3_600_000


def call(database: str, *arguments: str, exit_code: int = 0) -> Result:
    answer = CliRunner().invoke(main, ["keys", *arguments], env={"TICKERLOOP_DATABASE": database})
    assert answer.exit_code == exit_code, answer.output
    return answer


def rows(database: str) -> list[tuple[Any, ...]]:
    with closing(psycopg2.connect(database)) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT id, name, role, hash, expires, revoked, api_key::text FROM api_key ORDER BY created, id")
        return cursor.fetchall()


def test_a_key_is_printed_once_and_its_hash_is_kept(database: str) -> None:
    answer = call(database, "create", "Zoë", "--role", "annotator", "--expires", "90d")
    key = answer.stdout.strip()
    assert re.fullmatch(r"tl_[0-9a-f]{12}_[0-9a-f]{40}", key)
    assert "not shown again" in answer.stderr and key not in answer.stderr
    ((key_id, name, role, kept, expires, revoked, whole_row),) = rows(database)
    assert (key_id, name, role, revoked) == (key.split("_")[1], "Zoë", "annotator", None)
    assert kept == hashlib.sha256(key.encode()).hexdigest()
    assert key.split("_")[2] not in whole_row
    assert abs(expires - now_ms() - 90 * DAY_MS) < 60_000


def test_no_two_keys_are_alike(database: str) -> None:
    made = [call(database, "create", "ana", "--role", "source").stdout.strip() for _ in range(5)]
    assert len({key.split("_")[1] for key in made}) == len({key.split("_")[2] for key in made}) == 5


def test_scripts_read_json(database: str) -> None:
    made = json.loads(call(database, "create", "ana", "--role", "operator", "--json").stdout)
    assert (made["name"], made["role"], made["expires"]) == ("ana", "operator", None)
    listed = json.loads(call(database, "list", "--json").stdout)
    assert listed == [{name: value for name, value in made.items() if name != "key"}]


def test_a_list_shows_no_secret(database: str) -> None:
    assert "no keys" in call(database, "list").stdout
    key = call(database, "create", "a[red]na", "--role", "reader").stdout.strip()
    call(database, "create", "old", "--role", "reader")
    call(database, "revoke", rows(database)[1][0])
    for arguments in (["list"], ["list", "--json"]):
        said = call(database, *arguments).output
        assert key.split("_")[1] in said and "a[red]na" in said
        assert key.split("_")[2] not in said and keys.digest(key) not in said
    assert "revoked" in call(database, "list").stdout


def test_a_revoked_key_stays_revoked_and_the_last_one_is_told_of(database: str) -> None:
    first, second = (call(database, "create", n, "--role", "reader").stdout.split("_")[1] for n in ("ana", "bob"))
    assert call(database, "revoke", first).stderr == ""
    (when,) = (row[5] for row in rows(database) if row[0] == first)
    assert "no key is left" in call(database, "revoke", second).stderr
    call(database, "revoke", first)
    assert (when,) == tuple(row[5] for row in rows(database) if row[0] == first)


def test_what_can_not_be_is_said(database: str) -> None:
    assert "keys list" in call(database, "revoke", "000000000000", exit_code=3).output
    whole = call(database, "create", "ana", "--role", "reader").stdout.strip()
    assert whole.split("_")[2] not in call(database, "revoke", whole, exit_code=3).output
    for arguments in (
        ["create", "ana"],
        ["create", "ana", "--role", "king"],
        ["create", "", "--role", "reader"],
        ["create", "a\nb", "--role", "reader"],
        ["create", 201 * "x", "--role", "reader"],
        *(["create", "ana", "--role", "reader", "--expires", span] for span in ("90", "0d", "-1d", "1y", "99999d", "")),
    ):
        call(database, *arguments, exit_code=2)
    assert len(rows(database)) == 1


def test_the_help_teaches(database: str) -> None:
    said = " ".join(call(database, "--help").output.split())
    for role in keys.GRANTS:
        assert f" {role} " in said
    assert "Authorization: Bearer tl_" in said


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("/v1/tl_0123456789ab_" + 40 * "c" + "/x", "/v1/tl_0123456789ab_…/x"),
        ("tl_0123456789ab_c tl_0123456789AB_" + 40 * "D", "tl_0123456789ab_… tl_0123456789AB_…"),
        ("tl_0123456789ab", "tl_0123456789ab"),
    ],
)
def test_what_is_logged_is_masked(text: str, shown: str) -> None:
    assert keys.masked(text) == shown
