"""What documents are written of: names, goods, places, numbers, dates, codes and words that mean nothing."""

from __future__ import annotations

from prefixkv.demo.phrasing import Chooser

_GOODS_TEXT = """
Apples Bacon Bagel Bananas Beans Bread Brush Butter Cake Candles Carrots Cheese Cherries Chips Coffee Cookies Corn
Cream Dates Eggs Figs Fish Flour Garlic Ginger Glue Grapes Ham Honey Jam Juice Kiwi Lamp Leeks Lemons Lentils Lime
Mango Matches Melon Milk Mints Muffin Nuts Oats Oil Olives Onions Paper Pasta Peaches Pears Peas Pens Pepper Plums
Pizza Rice Rope Salad Salt Soap Soup Sponge Sugar Tape Tea Tofu Tomato Tuna Water Wine Yogurt
"""
_PEOPLE_TEXT = """
Ada Alma Anna Ben Bruno Carl Clara David Dora Elena Emil Eva Felix Fiona Frank Gina Greta Hanna Hugo Ida Igor Ivan
Jana Jonas Julia Karl Kim Lara Leo Lina Lucas Mara Max Maya Mila Nina Noah Nora Olga Omar Oscar Paul Petra Rita Rosa
Sara Simon Sofia Tara Theo Tom Uma Vera Viktor Wanda Yara Zoe
"""
_SURNAMES_TEXT = """
Adler Baker Brandt Castro Cohen Diaz Duval Evans Fischer Garcia Haas Ito Jansen Keller Klein Kumar Lopez Marino Meyer
Moreau Novak Okafor Olsen Park Patel Quinn Reyes Rossi Sato Silva Singh Stone Tanaka Vogel Weber Wolf Young Zhang
"""
_CITIES_TEXT = """
Athens Bergen Berlin Bern Boston Cairo Cork Dakar Delhi Denver Dublin Geneva Ghent Hanoi Havana Kyoto Lagos Lima
Lisbon London Lyon Madrid Malmo Milan Munich Nairobi Oslo Paris Porto Prague Quito Riga Rome Seoul Sofia Sydney Tokyo
Turin Vienna Warsaw Zurich
"""
_STREETS_TEXT = """
Bridge Castle Church Forest Garden Harbour High Hill Lake Market Mill Oak Park River Station
"""
_SYLLABLES_TEXT = """
ba be bi bo da de do du fa fi fo ga go ha he ho ja jo ka ke ki ko la le li lo lu ma me mi mo na ne no pa pe pi po qua
ra re ri ro sa se si so ta te ti to tu va ve vi vo wa we xo ya yo za ze zi zu
"""
GOODS = tuple(_GOODS_TEXT.split())
PEOPLE = tuple(_PEOPLE_TEXT.split())
SURNAMES = tuple(_SURNAMES_TEXT.split())
CITIES = tuple(_CITIES_TEXT.split())
STREETS = tuple(_STREETS_TEXT.split())
_SYLLABLES = tuple(_SYLLABLES_TEXT.split())
_ENDINGS = ("", "", "n", "r", "s", "l", "t", "x", "m")
_CODE_LETTERS = "ABCDEFGHJKLMNPQRSTUVWXYZ"


def nonsense(choose: Chooser) -> str:
    """A capitalised word of five to seven letters that means nothing, so that reading it is not guessing."""
    return ("".join(choose.one(_SYLLABLES) for _ in range(2)) + choose.one(_ENDINGS)).capitalize()


def code(choose: Chooser) -> str:
    """A code such as `K7-402`."""
    return f"{choose.one(_CODE_LETTERS)}{choose.below(10)}-{100 + choose.below(900)}"


def phone(choose: Chooser) -> str:
    """A telephone number such as `555-0192`."""
    return f"{200 + choose.below(800)}-{choose.below(10000):04d}"


def date(choose: Chooser) -> str:
    """A date as `14.03.2025` or `2025-03-14`."""
    day, month, year = 1 + choose.below(28), 1 + choose.below(12), 2000 + choose.below(40)
    return f"{day:02d}.{month:02d}.{year}" if choose.chance(0.5) else f"{year}-{month:02d}-{day:02d}"


def clock(choose: Chooser) -> str:
    """A time of day as `9:30`."""
    return f"{7 + choose.below(15)}:{choose.one(('00', '15', '30', '45'))}"


def price(cents: int) -> str:
    """An amount of money as `12.40`."""
    return f"{cents // 100}.{cents % 100:02d}"


def distinct(choose: Chooser, words: tuple[str, ...], count: int, strange: float = 0.15) -> list[str]:
    """Different words.

    Args:
        choose: the chooser.
        words: what to choose from.
        count: how many, fewer than there are words.
        strange: probability of a word that means nothing in each place.
    """
    found: list[str] = []
    while len(found) < count:
        word = nonsense(choose) if choose.chance(strange) else choose.one(words)
        if word not in found:
            found.append(word)
    return found
