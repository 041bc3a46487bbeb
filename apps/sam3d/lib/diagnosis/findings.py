"""What a look at one thing found: good, or wrong and how to mend it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Verdict(Enum):
    """WRONG: the server does not start, or fails those who use it. NOTE: it serves, and somebody should know."""

    GOOD = "good"
    NOTE = "note"
    WRONG = "wrong"


@dataclass(frozen=True)
class Finding:
    """About one area, in one sentence; `mend` says what to do, where something is to be done."""

    area: str
    verdict: Verdict
    sentence: str
    mend: str = ""

    def __str__(self) -> str:
        mend = f"\n{'':20}-> {self.mend}" if self.mend else ""
        return f"{self.verdict.value:6}{self.area:14}{self.sentence}{mend}"


def good(area: str, sentence: str) -> Finding:
    return Finding(area, Verdict.GOOD, sentence)


def note(area: str, sentence: str, mend: str = "") -> Finding:
    return Finding(area, Verdict.NOTE, sentence, mend)


def wrong(area: str, sentence: str, mend: str) -> Finding:
    return Finding(area, Verdict.WRONG, sentence, mend)
