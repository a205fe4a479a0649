"""Receipts: a shop, a date, a number, three to seven items with their prices, and their sum."""

from __future__ import annotations

from dataclasses import dataclass

from prefixkv.demo.documents.rows import Sheet
from prefixkv.demo.documents.wordings import phrase
from prefixkv.demo.documents.words import CITIES, GOODS, clock, date, distinct, nonsense, price
from prefixkv.demo.phrasing import Asked, Chooser

_SHOPS = ("Market", "Shop", "Store", "Cafe", "Corner", "Kiosk")


@dataclass(frozen=True)
class Receipt:
    """What a receipt says.

    Attributes:
        shop: its name.
        date: of the purchase.
        time: of day.
        number: of the receipt.
        items: names, all different.
        cents: the price of each item, all different.
        total_word: what stands before the sum.
        is_centred: whether shop and date stand in the middle.
    """

    shop: str
    date: str
    time: str
    number: str
    items: tuple[str, ...]
    cents: tuple[int, ...]
    total_word: str
    is_centred: bool

    @property
    def total(self) -> str:
        """The sum of the prices."""
        return price(sum(self.cents))

    @property
    def sheet(self) -> Sheet:
        """Its rows."""
        priced = tuple((name, price(cents)) for name, cents in zip(self.items, self.cents, strict=True))
        rows = ((self.shop,), (f"{self.date} {self.time}",), (self.number,), *priced, (self.total_word, self.total))
        return Sheet(rows, ruled=(3, len(rows) - 1), is_centred=self.is_centred)

    def ask(self, kind: str, choose: Chooser) -> Asked | None:
        """A question of a kind, or None where the kind has none for receipts."""
        one, other = choose.shuffled(range(len(self.items)))[:2]
        costs = dict(zip(self.items, self.cents, strict=True))
        name, second = self.items[one], self.items[other]
        if kind == "total":
            return phrase(choose, "total"), self.total, ()
        if kind == "value":
            if choose.chance(0.6):
                return phrase(choose, "price", noun=name), price(costs[name]), ()
            heads = ("date", self.date), ("time", self.time), ("shop", self.shop)
            wording, answer = choose.one(heads)
            return phrase(choose, wording), answer, ()
        if kind == "which":
            return phrase(choose, "item", noun=price(costs[name])), name, ()
        if kind == "tally":
            return phrase(choose, "items"), str(len(self.items)), ()
        if kind == "yes_no":
            if choose.chance(0.5):
                return phrase(choose, "has_item", noun=name), "yes", ()
            absent = distinct(choose, GOODS, 1)[0]
            absent = absent.upper() if name.isupper() else absent
            return None if absent in self.items else (phrase(choose, "has_item", noun=absent), "no", ())
        if kind == "compare":
            if choose.chance(0.5):
                return phrase(choose, "dearest"), max(self.items, key=lambda item: costs[item]), ()
            dearer = name if costs[name] > costs[second] else second
            return phrase(choose, "dearer", noun=name, other=second), dearer, ()
        if kind == "second":
            context = ((phrase(choose, "price", noun=second), price(costs[second])),)
            return phrase(choose, "next", noun=name), price(costs[name]), context
        return None


def compose(choose: Chooser) -> Receipt:
    """The content of a receipt."""
    count = 3 + choose.below(5)
    cents: list[int] = []
    while len(cents) < count:
        amount = 50 + choose.below(1500) if choose.chance(0.5) else 10 * (5 + choose.below(90))
        if amount not in cents:
            cents.append(amount)
    shop = f"{choose.one((*CITIES, nonsense(choose)))} {choose.one(_SHOPS)}"
    items = distinct(choose, GOODS, count)
    word = choose.one(("Total", "Sum", "TOTAL"))
    number = f"{choose.one(('No', 'Receipt', 'Bill'))} {1000 + choose.below(9000)}"
    if choose.chance(0.2):
        shop, items, word = shop.upper(), [item.upper() for item in items], word.upper()
    return Receipt(shop, date(choose), clock(choose), number, tuple(items), tuple(cents), word, choose.chance(0.6))
