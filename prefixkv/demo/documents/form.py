"""Forms: five to eight fields with their values."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from prefixkv.demo.documents import words
from prefixkv.demo.documents.rows import Sheet
from prefixkv.demo.documents.wordings import phrase
from prefixkv.demo.phrasing import Asked, Chooser

_FIELDS: dict[str, Callable[[Chooser], str]] = {
    "Name": lambda choose: words.distinct(choose, words.PEOPLE, 1)[0],
    "Surname": lambda choose: words.distinct(choose, words.SURNAMES, 1)[0],
    "City": lambda choose: words.distinct(choose, words.CITIES, 1)[0],
    "Street": lambda choose: f"{choose.one(words.STREETS)} {1 + choose.below(99)}",
    "Date": words.date,
    "Phone": words.phone,
    "Code": words.code,
    "Room": lambda choose: str(100 + choose.below(900)),
    "Age": lambda choose: str(18 + choose.below(70)),
    "Time": words.clock,
    "Order": lambda choose: str(1000 + choose.below(9000)),
    "Item": lambda choose: words.distinct(choose, words.GOODS, 1)[0],
}
_TITLES = ("Order form", "Booking", "Visitor pass", "Delivery", "Member card", "Registration")


@dataclass(frozen=True)
class Form:
    """What a form says.

    Attributes:
        title: its heading.
        fields: names of the fields.
        values: what is filled in, all different.
        mark: what stands behind the name of a field.
    """

    title: str
    fields: tuple[str, ...]
    values: tuple[str, ...]
    mark: str

    @property
    def sheet(self) -> Sheet:
        """Its rows."""
        filled = tuple((f"{field}{self.mark}", value) for field, value in zip(self.fields, self.values, strict=True))
        return Sheet(((self.title,), *filled), ruled=(1,), is_right=False)

    def ask(self, kind: str, choose: Chooser) -> Asked | None:
        """A question of a kind, or None where the kind has none for forms."""
        one, other = choose.shuffled(range(len(self.fields)))[:2]
        # Questions name a field in small letters whatever the form's are.
        field, value = self.fields[one].lower(), self.values[one]
        if kind == "value":
            return phrase(choose, "field", noun=field), value, ()
        if kind == "which":
            return phrase(choose, "which_field", noun=value), self.fields[one], ()
        if kind == "tally":
            return phrase(choose, "fields"), str(len(self.fields)), ()
        if kind == "yes_no":
            if choose.chance(0.5):
                return phrase(choose, "is_field", noun=field, other=value), "yes", ()
            wrong = _FIELDS[field.capitalize()](choose)
            return None if wrong == value else (phrase(choose, "is_field", noun=field, other=wrong), "no", ())
        if kind == "second":
            context = ((phrase(choose, "field", noun=self.fields[other].lower()), self.values[other]),)
            return phrase(choose, "next", noun=f"the {field}"), value, context
        return None


def compose(choose: Chooser) -> Form:
    """The content of a form."""
    fields = choose.shuffled(tuple(_FIELDS))[: 5 + choose.below(4)]
    values: list[str] = []
    for field in fields:
        value = _FIELDS[field](choose)
        while value in values:
            value = _FIELDS[field](choose)
        values.append(value)
    return Form(choose.one(_TITLES), tuple(fields), tuple(values), choose.one((":", ":", "")))
