"""The wordings of questions about documents."""

from __future__ import annotations

from prefixkv.demo.phrasing import Chooser

_WORDINGS: dict[str, tuple[str, ...]] = {
    "total": ("What is the total?", "What is the total of the receipt?", "How much is it in total?", "Read the total."),
    "price": ("What is the price of {noun}?", "How much is {noun}?", "What does {noun} cost?"),
    "date": ("What is the date?", "Which date is on the receipt?", "Read the date."),
    "time": ("What is the time?", "What time is on the receipt?", "Read the time."),
    "shop": ("What is the name of the shop?", "Which shop is it?", "What is the shop called?"),
    "item": ("Which item costs {noun}?", "What costs {noun}?", "Which item is {noun}?"),
    "items": ("How many items are there?", "How many items are on the receipt?", "Count the items."),
    "has_item": ("Is there {noun} on the receipt?", "Does the receipt list {noun}?"),
    "dearer": ("Which costs more, {noun} or {other}?", "What costs more, {noun} or {other}?"),
    "dearest": ("Which item costs the most?", "What is the most expensive item?"),
    "field": ("What is the {noun}?", "What is written at {noun}?", "Read the {noun}.", "Which {noun} is on the form?"),
    "which_field": ("Which field says {noun}?", "Where is {noun} written?", "In which field is {noun}?"),
    "fields": ("How many fields are there?", "How many fields does the form have?", "Count the fields."),
    "is_field": ("Is the {noun} {other}?", "Does the field {noun} say {other}?"),
    "cell": ("What is the {other} of {noun}?", "Which {other} does {noun} have?", "Read the {other} of {noun}."),
    "row_with": ("Who has the {other} {noun}?", "Whose {other} is {noun}?"),
    "rows": ("How many people are in the table?", "How many names are there?", "Count the names."),
    "largest_row": ("Who has the largest {noun}?", "Whose {noun} is the largest?"),
    "more_row": ("Who has more {third}, {noun} or {other}?", "Who has the larger {third}, {noun} or {other}?"),
    "in_table": ("Is {noun} in the table?", "Does the table list {noun}?"),
    "bar": ("What is the value of {noun}?", "What is the value at {noun}?", "How much is {noun}?"),
    "which_bar": ("Which has the value {noun}?", "What has the value {noun}?", "Where is the value {noun}?"),
    "bars": ("How many values are there?", "How many values does the chart show?", "Count the values."),
    "largest_bar": ("Which is the largest?", "Which value is the largest?", "What is the highest?"),
    "larger_bar": ("Which is larger, {noun} or {other}?", "Which is higher, {noun} or {other}?"),
    "difference": ("What is the difference between {noun} and {other}?", "How far apart are {noun} and {other}?"),
    "is_larger": ("Is {noun} larger than {other}?", "Is {noun} higher than {other}?"),
    "line": ("Read line {noun}.", "What does line {noun} say?", "What is in line {noun}?"),
    "last_line": ("Read the last line.", "What does the last line say?"),
    "lines": ("How many lines are there?", "How many lines of text are there?", "Count the lines."),
    "has_word": ("Is the word {noun} in the text?", "Does the text say {noun}?", "Can you read {noun}?"),
    "line_of": ("In which line is {noun}?", "Which line has the word {noun}?"),
    "sign": ("What does the sign say?", "Read the sign.", "What is on the sign?"),
    "read": ("Read the text.", "Read the whole text.", "What does it say?", "Write down the text."),
    "next": ("And {noun}?", "What about {noun}?"),
}


def phrase(choose: Chooser, key: str, **words: str) -> str:
    """One of the wordings of a question with its words filled in."""
    return choose.one(_WORDINGS[key]).format(**words)
