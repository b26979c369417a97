"""Whom to believe, and what a text's label is by all words on it. Pure functions; nothing is random.

Dawid & Skene's model (1979): each annotator has a confusion matrix, p(says l | is k), with Dirichlet priors, and the
words on a text are independent given its class. It is not fitted freely, as iBCC is (Kim & Ghahramani 2012): there five
who agree with each other are believed, whoever they are. Here trust has roots, questions whose answer is known and
operators by grant, and grows from them: an annotator is measured only where the class is settled without their own
word, by gold or by others who are trusted already (the messages of Liu, Peng & Ihler 2012 leave one's own word out in
the same way). The model's answers are never looked at.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Sequence
from typing import Final, Literal, NamedTuple

import msgspec
import numpy as np

from services.stream.events import LABELS, Label

State = Literal["operator", "qualified", "newcomer", "turned", "distrusted"]

NEWCOMER: Final = 0.5
"""Presumed share of right words of someone unknown, of three classes: one such word is believed to 1/2, and teaches
with a quarter of the weight. Nobody counts for more until they are qualified."""
STRENGTH: Final = 4.0
"""Words that this presumption is worth."""
CLASS_STRENGTH: Final = 20.0
"""Words of one class that the share over all classes is worth."""
GRANTED: Final = 0.98
"""Presumed share of right words of an operator."""
GRANT_STRENGTH: Final = 200.0
QUALIFIED: Final = 0.7
"""Least lower bound (95 %, one-sided) of the share of right words that qualifies."""
MEASURED: Final = 20
"""Least number of measured words that qualifies. 18 of 20 do: the bound is 0.73; 17 don't yet: 0.67."""
RECENT: Final = 30
RECENT_LEAST: Final = 0.5
"""Least lower bound over the last `RECENT` measured words: who was good and turned falls below it with 11 wrong ones of
30, and who is right in 85 % as always is there in 0.5 % of such windows."""
DISTRUSTED: Final = 0.5
"""Upper bound (95 %, one-sided) of the share of right words, of `SOME` at least, below which nothing is believed: of
all words, or of the recent ones."""
SOME: Final = 10
LEVEL: Final = 0.05
SETTLED: Final = 0.8
"""Least probability of a class by others' words alone by which a word is measured; one juror's reaches it."""
JUROR: Final = 0.88
"""Presumed share of right words of everyone by whose words others are measured."""
PRESUMED: Final = 0.8
"""Share of right words presumed of whoever is measured by others' words, which may be wrong themselves; the same for
everyone, so that a good past doesn't excuse."""
TIE: Final = 0.02
"""Of those who fail, the worst is dropped first and the others are measured again without them, so that honest people
don't fall with those who contradict them; who is as bad to within this falls, too, since nothing tells them apart."""
CERTAIN: Final = 30.0
"""Log-odds of a known answer."""

_OFF: Final = (1 - np.eye(len(LABELS))) / (len(LABELS) - 1)
_ON: Final = np.eye(len(LABELS))


class Word(NamedTuple):
    """One annotator's last word on one story, or on a question whose answer is known."""

    id: str
    item: str
    """The story's cluster, or the question."""
    who: str
    granted: bool
    """Trusted by the role that the key had."""
    label: int
    """Index into `LABELS`, as are `truth` and `predicted`."""
    given: int
    truth: int | None = None
    predicted: int | None = None
    """What the model had said; only the look for one-sided labels uses it."""
    tickers: tuple[str, ...] = ()
    sampled: bool = False


class Voter(NamedTuple):
    """Someone in one standing: an annotator who became an operator is two."""

    who: str
    granted: bool


class Share(msgspec.Struct, frozen=True):
    """Right ones of n measured words, in expectation, with 95 % bounds, each one-sided (Beta(1, 1) prior)."""

    right: float
    n: int
    low: float
    high: float


class Annotator(msgspec.Struct, frozen=True):
    """What is known of one annotator."""

    name: str
    state: State
    words: int
    reliability: Share
    gold: Share
    """Of questions whose answer is known."""
    overlaps: Share
    """Of texts that others who are trusted judged, too."""
    recent: Share
    """Of the last measured words."""
    good_until: int
    """When the last measured word was given before the worst run at the end began, ms: the run whose words fall short
    of `QUALIFIED` by most in all (Page's CUSUM, 1954). -1 where it is all of them."""
    classes: dict[Label, Share]
    """By what the texts are; those with data."""
    weight: float
    """That one word alone gives a text in training."""


class Consensus(NamedTuple):
    """What all say of one story."""

    item: str
    label: int
    probability: float
    weight: float
    """Between the probabilities of the two likeliest classes; 0 where nobody says the likeliest."""
    carrier: str
    """Id of the newest word that says so, of a trusted annotator where there is one."""
    trusted: int
    """How many trusted annotators say so."""
    sole: str | None
    """Who alone carries it, of those whom no grant covers."""
    sampled: bool
    """A trusted annotator was shown it because it was drawn at random."""


class Evidence(NamedTuple):
    """Per word, in the order of the words: what is known of it without its own author."""

    others: np.ndarray
    """float64[n, 3]: probabilities of the classes by the other trusted annotators, or by gold."""
    n_others: np.ndarray
    """int[n]: how many those are."""
    right: np.ndarray
    """float64[n]: probability that the word is right; 0 where it isn't measured."""
    measured: np.ndarray
    """bool[n]."""
    own: np.ndarray
    """float64[n, 3]: the log-likelihood that the word adds to its item; 0 where its author isn't trusted."""
    totals: np.ndarray
    """float64[n, 3]: of the word's whole item."""


class Judgement(NamedTuple):
    """All that the words tell."""

    annotators: list[Annotator]
    consensus: list[Consensus]
    evidence: Evidence

    def trusted(self) -> set[Voter]:
        """Those who settle what a text is."""
        found = {"operator": True, "qualified": False}
        return {Voter(a.name, found[a.state]) for a in self.annotators if a.state in found}


class _Table(NamedTuple):
    """Words as arrays, one entry each; `known` per item."""

    voters: list[Voter]
    items: list[str]
    voter: np.ndarray
    item: np.ndarray
    label: np.ndarray
    given: np.ndarray
    gold: np.ndarray
    speaks: np.ndarray
    counts: np.ndarray
    known: np.ndarray
    order: list[np.ndarray]
    """Per voter: their words by time."""


def judge(words: Sequence[Word], silent: Collection[str] = (), copied: Collection[str] = ()) -> Judgement:
    """Weigh all words. Those whose ids are in `silent` don't speak, but measure their author all the same, so that
    quarantine hides nobody's errors; those in `copied` don't even do that."""
    table = _table(words, frozenset(silent), frozenset(copied))
    granted = np.array([voter.granted for voter in table.voters], bool)
    jury, dropped = granted, np.zeros(len(granted), bool)
    evidence, records = _measure(table, jury)
    for _ in range(2 * len(granted) + 1):  # each joins at most once, and leaves at most once
        margins = np.array([_margin(*record) for record in records])
        failing = jury & ~granted & (margins < 0)
        dropped |= failing & (margins <= margins.min(where=failing, initial=np.inf) + TIE)
        before, jury = jury, (jury | (margins >= 0)) & ~dropped
        evidence, records = _measure(table, jury)
        if (jury == before).all():
            break
    trusted = granted | (jury & np.array([all_.low >= QUALIFIED for all_, _ in records], bool))
    states = [
        _state(voter.granted, bool(trusted[number]), bool(dropped[number]), *records[number])
        for number, voter in enumerate(table.voters)
    ]
    heard = np.array([state not in ("turned", "distrusted") for state in states], bool)
    confusion = _confusion(table, evidence, trusted)
    confusion[~heard] = 1 / len(LABELS)  # says nothing
    annotators = [_annotator(number, table, state, evidence, confusion) for number, state in enumerate(states)]
    speaks = table.speaks & heard[table.voter]
    return Judgement(annotators, _consensus(words, table, confusion, trusted, speaks), evidence)


def share(right: float, n: int) -> Share:
    """With its bounds: quantiles of Beta(1 + right, 1 + n − right)."""
    from scipy.special import betaincinv  # takes a moment, which the gateway needn't wait for at its start

    low, high = betaincinv(1 + right, 1 + n - right, [LEVEL, 1 - LEVEL])
    return Share(round(float(right), 2), n, round(float(low), 4), round(float(high), 4))


def limit(own: Sequence[float], rest: float, most: float) -> float:
    """The largest weight that an annotator may have in a set, so that nobody's share of it is above `most`; `own` are
    the annotators' weights, `rest` that of what none of them carries alone."""
    heavy = sorted(own, reverse=True)
    for over, weight in enumerate([*heavy, 0.0]):
        room = 1 - most * over
        if room <= 0:
            break
        allowed = most * (rest + sum(heavy[over:])) / room
        if weight <= allowed:
            return allowed
    return float("inf")


def _table(words: Sequence[Word], silent: frozenset[str], copied: frozenset[str]) -> _Table:
    voters = sorted({Voter(w.who, w.granted) for w in words})
    items = sorted({w.item for w in words})
    voter_at = {voter: number for number, voter in enumerate(voters)}
    item_at = {item: number for number, item in enumerate(items)}
    known = np.zeros((len(items), len(LABELS)))
    for w in words:
        if w.truth is not None:
            known[item_at[w.item]] = CERTAIN * _ON[w.truth]
    voter = np.array([voter_at[Voter(w.who, w.granted)] for w in words], int)
    by_time = np.array(sorted(range(len(words)), key=lambda n: (words[n].given, words[n].id)), int)
    gold = np.array([w.truth is not None for w in words], bool)
    return _Table(
        voters,
        items,
        voter,
        np.array([item_at[w.item] for w in words], int),
        np.array([w.label for w in words], int),
        np.array([w.given for w in words], int),
        gold,
        np.array([w.id not in silent for w in words], bool) & ~gold,
        np.array([w.id not in copied for w in words], bool),
        known,
        [by_time[voter[by_time] == number] for number in range(len(voters))],
    )


def _measure(table: _Table, jury: np.ndarray) -> tuple[Evidence, list[tuple[Share, Share]]]:
    """What each word's item is by the jury's others, and each voter's share of right words, of all and of the recent
    ones. Of all on the jury the same is presumed, operators apart, so that a good past outweighs nobody's word."""
    counted = table.speaks & jury[table.voter]
    presumed = np.where([voter.granted for voter in table.voters], GRANTED, JUROR)[table.voter, None]
    said = _ON[table.label]
    own = np.where(counted[:, None], np.log(presumed * said + (1 - presumed) / (len(LABELS) - 1) * (1 - said)), 0.0)
    totals = table.known.copy()
    np.add.at(totals, table.item, own)
    speakers = np.bincount(table.item[counted], minlength=len(table.items))
    n_others = speakers[table.item] - counted
    others = _softmax(totals[table.item] - own)
    measured = table.counts & ((n_others > 0) | table.gold) & (others.max(axis=1, initial=0) >= SETTLED)
    right = np.where(measured, _posterior(table, others)[np.arange(len(own)), table.label], 0.0)
    evidence = Evidence(others, n_others, right, measured, own, totals[table.item])
    return evidence, [_shares(evidence, words) for words in table.order]


def _shares(evidence: Evidence, words: np.ndarray) -> tuple[Share, Share]:
    right = evidence.right[words[evidence.measured[words]]]
    return share(right.sum(), len(right)), share(right[-RECENT:].sum(), len(right[-RECENT:]))


def _posterior(table: _Table, others: np.ndarray) -> np.ndarray:
    """float64[n, 3]: the item's class by the others and by the word itself, as of someone of whom `PRESUMED` is
    known."""
    presumed = PRESUMED * _ON + (1 - PRESUMED) * _OFF
    joint = others * presumed[:, table.label].T
    return np.asarray(joint / joint.sum(axis=1, keepdims=True))


def _margin(all_: Share, recent: Share) -> float:
    """How far above the least that makes a juror, or below."""
    return min(all_.right / all_.n - QUALIFIED, recent.low - RECENT_LEAST) if all_.n >= MEASURED else -1.0


def _state(granted: bool, trusted: bool, dropped: bool, all_: Share, recent: Share) -> State:
    if trusted:
        return "operator" if granted else "qualified"
    if all_.n >= SOME and all_.high < DISTRUSTED:
        return "distrusted"
    enough = all_.n >= MEASURED and all_.low >= QUALIFIED and recent.low < RECENT_LEAST
    bad = all_.n >= SOME and recent.high < DISTRUSTED
    return "turned" if dropped or enough or bad else "newcomer"


def _good_until(right: np.ndarray, given: np.ndarray) -> int:
    """See `Annotator.good_until`; of measured words by time."""
    short = np.cumsum((QUALIFIED - right)[::-1])
    run = 0 if short.max(initial=0) <= 0 else int(short.argmax()) + 1
    return int(given[-run - 1]) if run < len(given) else -1


def _confusion(table: _Table, evidence: Evidence, trusted: np.ndarray) -> np.ndarray:
    """float64[voters, 3, 3], p(says l | is k): a trusted one's rows by their measured words, which the share of right
    ones precedes; everyone else's alike for all classes, between that of a newcomer and one that says nothing."""
    counts = np.zeros((len(table.voters), len(LABELS), len(LABELS)))
    weights = _posterior(table, evidence.others) * evidence.measured[:, None]
    np.add.at(counts.swapaxes(1, 2), (table.voter, table.label), weights)
    right, n = np.trace(counts, axis1=1, axis2=2), counts.sum(axis=(1, 2))
    granted = np.array([voter.granted for voter in table.voters], bool)
    strength = np.where(granted, GRANT_STRENGTH, STRENGTH)
    rate = (np.where(granted, GRANTED, NEWCOMER) * strength + right) / (strength + n)
    rate = np.where(trusted, rate, np.clip(rate, 1 / len(LABELS), NEWCOMER))
    prior = np.maximum(strength, CLASS_STRENGTH)[:, None, None] * (
        rate[:, None, None] * _ON + (1 - rate[:, None, None]) * _OFF
    )
    rows = prior + np.where(trusted[:, None, None], counts, 0.0)
    return np.asarray(rows / rows.sum(axis=2, keepdims=True))


def _consensus(
    words: Sequence[Word], table: _Table, confusion: np.ndarray, trusted: np.ndarray, speaks: np.ndarray
) -> list[Consensus]:
    """Of every story on which someone speaks. All who aren't trusted have one voice together, the mean of theirs, so
    that no number of newcomers outvotes one who is trusted."""
    voices = np.log(confusion[table.voter, :, table.label])
    counted, unknown = (speaks & of[table.voter] for of in (trusted, ~trusted))
    totals, together = table.known.copy(), np.zeros_like(table.known)
    np.add.at(totals, table.item[counted], voices[counted])
    np.add.at(together, table.item[unknown], voices[unknown])
    n = np.bincount(table.item[unknown], minlength=len(table.items))
    probabilities = _softmax(totals + together / np.maximum(n, 1)[:, None])
    said: defaultdict[int, list[tuple[Word, bool]]] = defaultdict(list)
    for number in np.flatnonzero(speaks).tolist():
        said[int(table.item[number])].append((words[number], bool(counted[number])))
    return [_settled(table.items[item], probabilities[item].tolist(), people) for item, people in sorted(said.items())]


def _settled(item: str, probabilities: Sequence[float], said: Sequence[tuple[Word, bool]]) -> Consensus:
    _, second, first = sorted(probabilities)
    label = probabilities.index(first)
    agreeing = sorted((trusted, word.given, word.id) for word, trusted in said if word.label == label)
    backers = [word for word, trusted in said if trusted and word.label == label]
    return Consensus(
        item,
        label,
        first,
        round(first - second, 6) if agreeing else 0.0,
        agreeing[-1][2] if agreeing else "",
        len(backers),
        backers[0].who if len(backers) == 1 and not backers[0].granted else None,
        any(trusted and word.sampled for word, trusted in said),
    )


def _annotator(number: int, table: _Table, state: State, evidence: Evidence, confusion: np.ndarray) -> Annotator:
    mine = table.order[number]
    measured = mine[evidence.measured[mine]]
    gold = table.gold[measured]
    truths = evidence.others[measured].argmax(axis=1)
    parts = {label: measured[truths == k] for k, label in enumerate(LABELS)}
    reliability, recent = _shares(evidence, mine)
    alone = np.sort(confusion[number] / confusion[number].sum(axis=0, keepdims=True), axis=0)
    return Annotator(
        name=table.voters[number].who,
        state=state,
        words=int((~table.gold[mine]).sum()),
        reliability=reliability,
        gold=share(evidence.right[measured[gold]].sum(), int(gold.sum())),
        overlaps=share(evidence.right[measured[~gold]].sum(), int((~gold).sum())),
        recent=recent,
        good_until=_good_until(evidence.right[measured], table.given[measured]),
        classes={label: share(evidence.right[part].sum(), len(part)) for label, part in parts.items() if len(part)},
        weight=round(float((alone[-1] - alone[-2]).mean()), 4),
    )


def _softmax(logs: np.ndarray) -> np.ndarray:
    powers = np.exp(logs - logs.max(axis=1, keepdims=True, initial=-np.inf))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))
