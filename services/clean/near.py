"""Near copies of long texts in Valkey: MinHash bands, checked and set by one script for a whole batch.

A band's key leads to the text that set it first, its signature and its event time; a text too far from it in time is no
copy and takes the key over. Losing the keys loses recall, nothing else: exact and cut-off copies are kept out by
`duplicates`, in PostgreSQL.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

import redis

from services.clean.fingerprint import HASHES
from services.stream.errors import Transient

SIMILAR: Final = 0.95
"""Least share of equal hashes: an estimate of the Jaccard similarity of the texts' shingles."""

PREFIX: Final = "tickerloop:near_copies:"

# KEYS: the bands of all texts. ARGV: wanted matches, time to live in s, then per text: its id, signature, event time in
# ms, number of bands. Answers each text with the id of the text it is near to, or '' when it is the first.
_SCRIPT: Final = """
local wanted, ttl, answers, key = tonumber(ARGV[1]), ARGV[2], {}, 0
for arg = 3, #ARGV, 4 do
    local id, signature, time, bands = ARGV[arg], ARGV[arg + 1], ARGV[arg + 2], tonumber(ARGV[arg + 3])
    local owner, free = '', {}
    for band = key + 1, key + bands do
        local value = redis.call('GET', KEYS[band])
        if not value or math.abs(string.sub(value, #signature + 1, #signature + #time) - time) > ttl * 1000 then
            free[#free + 1] = KEYS[band]
        elseif owner == '' then
            local equal = 0
            for i = 1, #signature, 2 do
                if string.sub(value, i, i + 1) == string.sub(signature, i, i + 1) then equal = equal + 1 end
            end
            if equal >= wanted then owner = string.sub(value, #signature + #time + 1) end
        end
    end
    if owner == id then owner = '' end
    if owner == '' then
        for _, name in ipairs(free) do redis.call('SET', name, signature .. time .. id, 'EX', ttl) end
    end
    key = key + bands
    answers[#answers + 1] = owner
end
return answers
"""


class Question(NamedTuple):
    """A text to place; one that was placed before under the same id gets the answer it got then."""

    text_id: str
    bands: Sequence[int]
    signature: bytes
    event_time: int


class Near:
    """The keys of one Valkey."""

    def __init__(self, valkey: redis.Redis, copies_s: int) -> None:
        self._copies_s = copies_s
        self._script = valkey.register_script(_SCRIPT)

    def owners(self, questions: Sequence[Question]) -> list[str | None]:
        """Id of the text each one is a near copy of, None for the first of its kind; in order, within the batch too.

        Raises:
            Transient: Valkey is away, loading, full, or refuses for another reason that its operator can end.
        """
        if not questions:
            return []
        keys = [f"{PREFIX}{band:x}" for question in questions for band in question.bands]
        arguments: list[bytes | str | int | float] = [round(SIMILAR * HASHES), self._copies_s]
        for question in questions:
            time = f"{question.event_time:015}"  # as wide as the last event time there can be
            arguments += (question.text_id, question.signature, time, len(question.bands))
        try:
            answers = self._script(keys=keys, args=arguments)
        except redis.RedisError as error:
            raise Transient(f"Valkey: {error}") from error
        return [(answer.decode() if isinstance(answer, bytes) else answer) or None for answer in answers]
