"""Signs and notes: text in lines."""

from __future__ import annotations

from dataclasses import dataclass

from prefixkv.demo.documents import words
from prefixkv.demo.documents.rows import Sheet
from prefixkv.demo.documents.wordings import phrase
from prefixkv.demo.phrasing import Asked, Chooser

_SIGNS = (
    ("NO {noun}", "PARKING SWIMMING SMOKING FISHING ENTRY CAMPING CYCLING DOGS PHOTOS FOOD"),
    ("{noun} ONLY", "STAFF EXIT BUSES GUESTS MEMBERS TAXIS CASH BICYCLES"),
    ("{noun} AHEAD", "ROADWORKS SCHOOL CURVE ICE BRIDGE TUNNEL FERRY"),
    ("{noun}", "STOP EXIT SLOW DANGER WARNING CLOSED OPEN SALE PRIVATE"),
)


@dataclass(frozen=True)
class Lines:
    """What a sign or a note says.

    Attributes:
        kind: `sign` or `note`.
        lines: of text; no word of four letters or more comes twice.
        is_centred: whether the lines stand in the middle.
    """

    kind: str
    lines: tuple[str, ...]
    is_centred: bool

    @property
    def sheet(self) -> Sheet:
        """Its rows."""
        return Sheet(tuple((line,) for line in self.lines), is_centred=self.is_centred)

    def ask(self, kind: str, choose: Chooser) -> Asked | None:
        """A question of a kind, or None where the kind has none for lines."""
        one, other = choose.shuffled(range(len(self.lines)))[:2]
        long = [word for word in self.lines[one].split() if len(word) > 3]
        if kind == "line":
            if one == len(self.lines) - 1 and choose.chance(0.4):
                return phrase(choose, "last_line"), self.lines[one], ()
            return phrase(choose, "line", noun=str(one + 1)), self.lines[one], ()
        if kind == "value" and self.kind == "sign":
            return phrase(choose, "sign"), "\n".join(self.lines), ()
        if kind == "tally":
            return phrase(choose, "lines"), str(len(self.lines)), ()
        if kind == "which" and long:
            return phrase(choose, "line_of", noun=choose.one(long)), str(one + 1), ()
        if kind == "yes_no" and long:
            if choose.chance(0.5):
                return phrase(choose, "has_word", noun=choose.one(long)), "yes", ()
            absent = choose.one((words.nonsense(choose), choose.one(words.GOODS), choose.one(words.PEOPLE)))
            absent = absent.upper() if self.lines[0].isupper() else absent
            is_there = absent in " ".join(self.lines).split()
            return None if is_there else (phrase(choose, "has_word", noun=absent), "no", ())
        if kind == "second":
            context = ((phrase(choose, "line", noun=str(other + 1)), self.lines[other]),)
            return phrase(choose, "next", noun=f"line {one + 1}"), self.lines[one], context
        return None


def compose_sign(choose: Chooser) -> Lines:
    """The content of a sign: two to four short lines in capitals."""
    while True:
        if len(lines := _without_repeats(_sign_lines(choose))) > 1:
            return Lines("sign", lines, is_centred=choose.chance(0.8))


def _sign_lines(choose: Chooser) -> list[str]:
    form, nouns = choose.one(_SIGNS)
    lines = [form.format(noun=choose.one(nouns.split()))]
    more = [
        f"{choose.one(words.STREETS).upper()} {choose.one(('STREET', 'ROAD', 'GATE'))}",
        f"{choose.one(words.CITIES).upper()} {1 + choose.below(300)} KM",
        f"OPEN {words.clock(choose)}-{words.clock(choose)}",
        f"GATE {choose.one('ABCDEFGH')}{1 + choose.below(40)}",
        f"CALL {words.phone(choose)}",
        f"LEVEL {1 + choose.below(9)}",
    ]
    return lines + choose.shuffled(more)[: 1 + choose.below(3)]


def compose_note(choose: Chooser) -> Lines:
    """The content of a note: four to seven lines of ten to twenty characters."""
    count = 4 + choose.below(4)
    while True:
        lines = _without_repeats([_sentence(choose) for _ in range(count)])
        if len(lines) == count:
            return Lines("note", lines, is_centred=choose.chance(0.2))


def _sentence(choose: Chooser) -> str:
    person, other = words.distinct(choose, words.PEOPLE, 2)
    goods, more = (item.lower() for item in words.distinct(choose, words.GOODS, 2))
    return choose.one(
        (
            f"Call {person} at {words.clock(choose)}",
            f"Buy {goods} and {more}",
            f"Meet {person} and {other}",
            f"Train to {choose.one(words.CITIES)} {words.clock(choose)}",
            f"Send {2 + choose.below(98)} {goods} boxes",
            f"Ask {person} about {goods}",
            f"Room {100 + choose.below(900)}, floor {1 + choose.below(9)}",
            f"Phone {words.phone(choose)}",
            f"Code {words.code(choose)}",
            f"Lunch with {person}",
            f"Pay {words.price(100 + choose.below(9900))} to {person}",
            f"{words.nonsense(choose)} {words.nonsense(choose).lower()} {words.nonsense(choose).lower()}",
            f"Due on {words.date(choose)}",
        )
    )


def _without_repeats(lines: list[str]) -> tuple[str, ...]:
    kept: list[str] = []
    seen: set[str] = set()
    for line in lines:
        long = {word for word in line.split() if len(word) > 3}
        if len(line) <= 21 and not long & seen:
            kept.append(line)
            seen |= long
    return tuple(kept)
