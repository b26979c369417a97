"""API keys: who speaks to the gateway, and what they may do there.

A key is `tl_<id>_<secret>`. The id names it in lists, the secret is random. The whole is shown once, when it is made;
the table `api_key` holds its hash.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Collection, Mapping
from typing import Any, Final, Literal, NamedTuple

import msgspec
from psycopg2.extensions import cursor as Cursor

from services.stream.errors import Rejected

Role = Literal["source", "reader", "annotator", "operator"]

GRANTS: Final[Mapping[Role, frozenset[Role]]] = {
    "source": frozenset({"source"}),
    "reader": frozenset({"reader"}),
    "annotator": frozenset({"reader", "annotator"}),
    "operator": frozenset({"source", "reader", "annotator", "operator"}),
}
"""What the holder of a role may do: a reader reads, scores and explains, an annotator gives feedback, a source sends
texts, an operator changes the champion. A source reads nothing: its key lies in a crawler or at a webhook's sender."""

ID_BYTES: Final = 6
SECRET_BYTES: Final = 20
"""160 bits from the operating system's generator; 128 would do."""
FORM: Final = re.compile(rf"tl_([0-9a-f]{{{2 * ID_BYTES}}})_[0-9a-f]{{{2 * SECRET_BYTES}}}")
_SECRET: Final = re.compile(rf"(tl_[0-9a-f]{{{2 * ID_BYTES}}}_)[0-9a-f]+", re.IGNORECASE)


class Key(msgspec.Struct, frozen=True, kw_only=True):
    """What may be shown of a key. Times are milliseconds since the epoch."""

    id: str
    name: str
    """Whose key it is: the annotator of its feedback, the actor of its promotions. Several keys may share a name, so
    that a new one can be handed out before the old one is revoked."""
    role: Role
    created: int
    expires: int | None = None
    revoked: int | None = None
    used: int | None = None
    """When a gateway last saw it, to about a minute."""

    def may(self, role: Role) -> bool:
        """Whether its holder may do what takes `role`."""
        return role in GRANTS[self.role]

    def expired(self, now: int) -> bool:
        """Whether its time is over at `now`."""
        return self.expires is not None and self.expires <= now


class Stored(NamedTuple):
    """A key and the hash that is kept of it."""

    key: Key
    hash: str


def digest(key: str) -> str:
    """The hash that is kept of a key: SHA-256 in hex, without a salt.

    Slow, salted hashes protect passwords, which can be guessed; 160 random bits can't. NIST SP 800-63B, section
    5.1.2.2: secrets of at least 112 bits of entropy are hashed with an approved one-way function, only those with less
    are salted and put through a key derivation function. And a check on every request can afford a fast hash.
    """
    return hashlib.sha256(key.encode()).hexdigest()


def found(stored: Mapping[str, Stored], given: str) -> Key | None:
    """Which of `stored` (by id) the key `given` is; compared in constant time."""
    form = FORM.fullmatch(given)
    held = stored.get(form[1]) if form else None
    return held.key if held is not None and hmac.compare_digest(held.hash, digest(given)) else None


def masked(text: str) -> str:
    """`text` without the secret of any key in it."""
    return _SECRET.sub(r"\1…", text)


def create(cursor: Cursor, name: str, role: Role, created: int, expires: int | None = None) -> tuple[Key, str]:
    """Make a key; what may be shown of it, and the key itself, which can't be had again."""
    key = Key(id=secrets.token_hex(ID_BYTES), name=name, role=role, created=created, expires=expires)
    whole = f"tl_{key.id}_{secrets.token_hex(SECRET_BYTES)}"
    cursor.execute(
        "INSERT INTO api_key (id, name, role, hash, created, expires) VALUES (%s, %s, %s, %s, %s, %s)",
        (key.id, name, role, digest(whole), created, expires),
    )
    return key, whole


def revoke(cursor: Cursor, key_id: str, now: int) -> Key:
    """End a key for good; the time at which that happened first stays.

    Raises:
        Rejected: there is no such key.
    """
    cursor.execute("UPDATE api_key SET revoked = %s WHERE id = %s AND revoked IS NULL", (now, key_id))
    for key in every(cursor):
        if key.id == key_id:
            return key
    raise Rejected("unknown", f"there is no key {masked(key_id)}; `tickerloop keys list` shows their ids")


def delete(cursor: Cursor, name: str) -> None:
    """Delete all keys of a name, revoked ones too: as if there had never been any."""
    cursor.execute("DELETE FROM api_key WHERE name = %s", (name,))


def every(cursor: Cursor) -> list[Key]:
    """All keys there ever were, oldest first."""
    return [stored.key for stored in _rows(cursor, "")]


def unrevoked(cursor: Cursor) -> dict[str, Stored]:
    """The keys that aren't revoked, by id; expired ones are among them."""
    return {stored.key.id: stored for stored in _rows(cursor, "WHERE revoked IS NULL")}


def saw(cursor: Cursor, ids: Collection[str], now: int) -> None:
    """Keep when these keys were last used. Not of one whose row is locked: whoever reads the keys waits for nobody."""
    cursor.execute(
        "UPDATE api_key SET used = %s WHERE id IN (SELECT id FROM api_key WHERE id = ANY(%s) FOR UPDATE SKIP LOCKED)",
        (now, list(ids)),
    )


def _rows(cursor: Cursor, condition: Literal["", "WHERE revoked IS NULL"]) -> list[Stored]:
    names = Key.__struct_fields__
    cursor.execute(f"SELECT hash, {', '.join(names)} FROM api_key {condition} ORDER BY created, id")  # noqa: S608 (our own names)
    rows: list[tuple[Any, ...]] = cursor.fetchall()
    return [Stored(Key(**dict(zip(names, row[1:], strict=True))), row[0]) for row in rows]
