"""Word lists, written as prose."""

from __future__ import annotations

from typing import Final


def word_set(text: str) -> frozenset[str]:
    """The words of `text`."""
    return frozenset(text.split())


TURNS: Final = word_set(
    "not no never none without cannot cant wont dont doesnt didnt isnt wasnt arent werent hasnt havent nor neither"
    " fails failed up down above below over under more less higher lower rise rises rose risen rising fall falls"
    " fell fallen falling gain gains gained lose loses lost loss losses profit profits beat beats beating miss"
    " misses missed missing raise raises raised raising cut cuts cutting hike hikes hiked lift lifts lifted increase"
    " increases increased decrease decreases decreased grow grows grew growth shrink shrinks shrank decline declines"
    " declined climb climbs climbed drop drops dropped jump jumps jumped plunge plunges plunged surge surges surged"
    " slump slumps slumped soar soars soared tumble tumbles tumbled rally rallies rallied slip slips slipped edge"
    " advance advances advanced retreat retreats retreated upgrade upgrades upgraded downgrade downgrades downgraded"
    " outperform underperform buy sell hold holds overweight underweight bullish bearish positive negative strong"
    " weak stronger weaker better worse best worst approve approves approved reject rejects rejected accept accepts"
    " accepted deny denies denied confirm confirms confirmed win wins won open opens opened close closes closed"
    " start starts started stop stops stopped halt halts halted resume resumes resumed hire hires hired fire fires"
    " fired expand expands expanded keep keeps kept maintain maintains maintained first second third fourth half"
    " quarter one two three four five six seven eight nine ten eleven twelve dozen hundred thousand million billion"
    " trillion crore lakh today yesterday tomorrow monday tuesday wednesday thursday friday saturday sunday january"
    " february march april may june july august september october november december"
)
"""Words that turn a story round, and those that count or date it."""
