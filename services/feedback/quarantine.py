"""Words that a person should look at before they count. Pure functions: each look gives findings with their numbers.

Who is trusted by grant is never looked at: bulk imports and a person alone on a machine are theirs to answer for.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from itertools import combinations, islice
from typing import Final, Literal, NamedTuple

import numpy as np

from services.feedback.trust import SETTLED, Judgement, Voter, Word
from services.stream.events import LABELS

Reason = Literal["burst", "one-sided", "copied", "contradicts", "turned", "ticker"]

BURST: Final = 60
"""More words than this within `BURST_MS` are no reader's: silent reading takes 240 words a minute (Brysbaert 2019), a
headline of twelve three seconds."""
BURST_MS: Final = 60_000
RUN: Final = 50
"""Words in a row that are looked at for one label."""
RUN_SHARE: Final = 0.9
RUN_CHANCE: Final = 1e-6
"""Of so many alike by chance: small, since every word starts such a row."""
AGREE: Final = 0.9
"""Two people who are right in 95 % each agree so often, and few are as good."""
REPEAT: Final = 0.4
"""Presumed chance that another's error is made again by who judges the same text alone: some texts are hard for all."""
COPY_CHANCE: Final = 1e-4
"""Of such agreement by chance; it takes 11 errors repeated of 11, or 88 words of 88."""
FIRST: Final = 0.9
"""Least share of the texts two people share that the leader judged first; the queue's own order makes it a half."""
CROWD: Final = 8
"""Of a story that more people judged, the first so many are compared."""
CONFIRMED: Final = 2
"""Trusted others who must agree before who contradicts them is held."""
CONFIRMED_SURE: Final = 0.95
APART: Final = 1e-4
"""Chance of agreeing with others so rarely on one ticker, or on one exchange's, by how often one agrees elsewhere; of
ten people and forty tickers one is found without cause in 4 % of the looks at most."""
USUAL, USUAL_PAIRS = 0.7, 10
"""Agreement that is presumed of two people, and the pairs that this is worth."""
ALIKE: Final = 0.05
"""Who agrees so little more than the worst on a ticker is as bad: nothing tells them apart."""


class Finding(NamedTuple):
    """Words of one annotator with one thing wrong; `subject` is what else it is about."""

    annotator: str
    reason: Reason
    subject: str
    detail: str
    words: tuple[str, ...]


Decided = Mapping[Reason, Collection[str]]
"""By reason, ids of words that a person has decided on: what was released isn't held against its author again."""


def findings(words: Sequence[Word], judgement: Judgement, decided: Decided) -> list[Finding]:
    """All looks at all words; `judgement` is of the same words."""
    looks: dict[Reason, Callable[[Sequence[Word], Sequence[int], Judgement], Iterator[Finding]]] = {
        "burst": _bursts,
        "one-sided": _one_sided,
        "copied": _copies,
        "contradicts": _contradictions,
        "turned": _turned,
        "ticker": _on_tickers,
    }
    found: list[Finding] = []
    for reason, look in looks.items():
        skip = frozenset(decided.get(reason, ()))
        numbers = [n for n, word in enumerate(words) if word.id not in skip]
        found += look(words, sorted(numbers, key=lambda n: (words[n].given, words[n].id)), judgement)
    return found


def chance(k: int, n: int, p: float) -> float:
    """Of k or more successes in n at p (binomial)."""
    from scipy.special import bdtrc

    return float(bdtrc(k - 1, n, p)) if k > 0 else 1.0


def _mine(words: Sequence[Word], numbers: Sequence[int]) -> dict[str, list[int]]:
    """By annotator whom no grant covers, the words on stories, oldest first."""
    found: defaultdict[str, list[int]] = defaultdict(list)
    for n in numbers:
        if not words[n].granted and words[n].truth is None:
            found[words[n].who].append(n)
    return dict(sorted(found.items()))


def _bursts(words: Sequence[Word], numbers: Sequence[int], _: Judgement) -> Iterator[Finding]:
    for who, mine in _mine(words, numbers).items():
        marked: set[int] = set()
        start = most = 0
        for end, n in enumerate(mine):
            while words[n].given - words[mine[start]].given >= BURST_MS:
                start += 1
            if end - start >= BURST:
                marked.update(mine[start : end + 1])
                most = max(most, end - start + 1)
        if marked:
            detail = f"{most} words within {BURST_MS // 1000} s; a reader gives {BURST} at most"
            yield Finding(who, "burst", "", detail, _ids(words, marked))


def _one_sided(words: Sequence[Word], numbers: Sequence[int], _: Judgement) -> Iterator[Finding]:
    by_person = _mine(words, numbers)
    everyone = Counter(words[n].label for n in numbers if words[n].truth is None)
    for who, mine in by_person.items():
        own = Counter(words[n].label for n in mine)
        base = everyone - own
        if base.total() < RUN:  # hardly anyone else: then by what the model said of the same texts
            base = Counter(p for n in mine if (p := words[n].predicted) is not None)
        for label, name in enumerate(LABELS):
            usual = (base[label] + 1) / (base.total() + len(LABELS))
            marked, most = _runs([words[n].label == label for n in mine])
            if marked and chance(most, RUN, usual) < RUN_CHANCE:
                detail = f"{most} of {RUN} words in a row are {name}, which {usual:.0%} of such texts are"
                held = [mine[at] for at in marked if words[mine[at]].label == label]
                yield Finding(who, "one-sided", name, detail, _ids(words, held))


def _runs(same: Sequence[bool]) -> tuple[set[int], int]:
    """Places in rows of `RUN` of which `RUN_SHARE` are the same, and how many the purest such row has."""
    sums = np.concatenate([[0], np.cumsum(np.array(same, int))])
    inside = sums[RUN:] - sums[:-RUN] if len(same) >= RUN else np.zeros(0, int)
    starts = np.flatnonzero(inside >= RUN_SHARE * RUN)
    marked = {at for start in starts.tolist() for at in range(start, start + RUN)}
    return marked, int(inside.max(initial=0))


class _Pair:
    """What follows of one annotator's words behind another's."""

    def __init__(self) -> None:
        self.shared: list[int] = []
        self.agreed = self.erred = self.repeated = 0


def _copies(words: Sequence[Word], numbers: Sequence[int], judgement: Judgement) -> Iterator[Finding]:
    by_item: defaultdict[str, list[int]] = defaultdict(list)
    for n in numbers:
        by_item[words[n].item].append(n)
    pairs: defaultdict[tuple[str, Voter], _Pair] = defaultdict(_Pair)
    for people in by_item.values():
        for first, second in combinations(islice(people, CROWD), 2):  # in the order in which they spoke
            if not words[second].granted and words[first].who != words[second].who:
                leader = Voter(words[first].who, words[first].granted)
                _compare(pairs[words[second].who, leader], words, first, second, judgement)
    for (who, leader), pair in sorted(pairs.items()):
        back = pairs.get((leader.who, Voter(who, False)))
        total = len(pair.shared) + (len(back.shared) if back else 0)
        follows = len(pair.shared) >= FIRST * total
        alike = chance(pair.agreed, len(pair.shared), AGREE)
        errors = chance(pair.repeated, pair.erred, REPEAT)
        if errors < COPY_CHANCE or (follows and alike < COPY_CHANCE):
            detail = (
                f"says what {leader.who} had said on {pair.agreed} of {len(pair.shared)} texts (by chance {alike:.0e}),"
                f" {pair.repeated} of {pair.erred} errors among them (by chance {errors:.0e})"
            )
            yield Finding(who, "copied", leader.who, detail, _ids(words, pair.shared))


def _compare(pair: _Pair, words: Sequence[Word], first: int, second: int, judgement: Judgement) -> None:
    pair.shared.append(second)
    alike = words[first].label == words[second].label
    pair.agreed += alike
    evidence = judgement.evidence
    logs = evidence.totals[first] - evidence.own[first] - evidence.own[second]
    powers = np.exp(logs - logs.max())
    if powers.max() / powers.sum() >= SETTLED and powers.argmax() != words[first].label:
        pair.erred += 1
        pair.repeated += alike


def _contradictions(words: Sequence[Word], numbers: Sequence[int], judgement: Judgement) -> Iterator[Finding]:
    evidence = judgement.evidence
    for who, mine in _mine(words, numbers).items():
        marked = [
            n
            for n in mine
            if evidence.n_others[n] >= CONFIRMED
            and evidence.others[n].max() >= CONFIRMED_SURE
            and evidence.others[n].argmax() != words[n].label
        ]
        if marked:
            judged = int(np.sum(evidence.n_others[mine] >= CONFIRMED))
            detail = (
                f"contradicts {CONFIRMED} or more trusted people who agree on the same story: {len(marked)} of {judged}"
            )
            yield Finding(who, "contradicts", "", detail, _ids(words, marked))


def _turned(words: Sequence[Word], numbers: Sequence[int], judgement: Judgement) -> Iterator[Finding]:
    turned = {a.name: a for a in judgement.annotators if a.state == "turned"}
    for who, mine in _mine(words, numbers).items():
        if known := turned.get(who):
            marked = [n for n in mine if words[n].given > known.good_until]
            detail = (
                f"{known.recent.right:.1f} of the last {known.recent.n} measured words are right,"
                f" {known.reliability.right:.1f} of {known.reliability.n} in all"
            )
            yield Finding(who, "turned", "", detail, _ids(words, marked))


def _on_tickers(words: Sequence[Word], numbers: Sequence[int], judgement: Judgement) -> Iterator[Finding]:
    """On each ticker, and each exchange, who of the trusted people agrees with the others far less than elsewhere. The
    worst leaves first, and the others are compared again without them, or honest people were found with those who
    contradict them."""
    trusted = judgement.trusted()
    believed = [n for n in numbers if words[n].truth is None and Voter(words[n].who, words[n].granted) in trusted]
    by_item: defaultdict[str, list[int]] = defaultdict(list)
    by_subject: defaultdict[str, set[str]] = defaultdict(set)
    for n in believed:
        by_item[words[n].item].append(n)
        for subject in _subjects(words[n].tickers):
            by_subject[subject].add(words[n].item)
    in_all = _agreement(words, by_item.values(), frozenset())
    for subject, items in sorted(by_subject.items()):
        out: set[str] = set()
        while worst := _apart(words, [by_item[item] for item in sorted(items)], in_all, out):
            for who, detail in worst.items():
                about = [n for item in items for n in by_item[item] if words[n].who == who]
                yield Finding(who, "ticker", subject, f"on {subject}: {detail}", _ids(words, about))
            out |= worst.keys()


def _apart(
    words: Sequence[Word], stories: Sequence[Sequence[int]], in_all: Mapping[str, Counter[bool]], out: set[str]
) -> dict[str, str]:
    """Of those who agree too rarely on these stories, without `out`, the worst, each with the numbers."""
    found: dict[str, tuple[float, str]] = {}
    granted = {words[n].who for people in stories for n in people if words[n].granted}
    for who, here in _agreement(words, stories, out).items():
        elsewhere = in_all[who] - here
        usual = (elsewhere[True] + USUAL * USUAL_PAIRS) / (elsewhere.total() + USUAL_PAIRS)
        so_rarely = chance(here[False], here.total(), 1 - usual)
        if so_rarely < APART and who not in granted:
            detail = f"agrees with others {here[True]} times of {here.total()}, elsewhere in {usual:.0%}"
            found[who] = (here[True] / here.total(), f"{detail} (by chance {so_rarely:.0e})")
    least = min((rate for rate, _ in found.values()), default=0.0)
    return {who: detail for who, (rate, detail) in sorted(found.items()) if rate <= least + ALIKE}


def _agreement(
    words: Sequence[Word], stories: Iterable[Sequence[int]], out: Collection[str]
) -> dict[str, Counter[bool]]:
    """By annotator: how many other people's words on the same stories are the same, and how many aren't."""
    found: defaultdict[str, Counter[bool]] = defaultdict(Counter)
    for people in stories:
        for one, other in combinations([n for n in people if words[n].who not in out], 2):
            same = words[one].label == words[other].label
            found[words[one].who][same] += 1
            found[words[other].who][same] += 1
    return found


def _subjects(tickers: Sequence[str]) -> set[str]:
    """Tickers and the suffixes of their exchanges, such as `.NS`."""
    return {*tickers, *(f".{ticker.rpartition('.')[2]}" for ticker in tickers if "." in ticker)}


def _ids(words: Sequence[Word], numbers: Collection[int]) -> tuple[str, ...]:
    return tuple(sorted(words[n].id for n in numbers))
