"""What is kept of a conversation's pictures under its own budget, and under others."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from prefixkv.errors import BudgetTooSmallError, DeviceMemoryError
from prefixkv.policy.budget import Budget
from prefixkv_cli import output
from prefixkv_cli.progress_bar import progress_bar

if TYPE_CHECKING:
    from prefixkv.chat.conversation import Conversation
    from prefixkv.chat.kept_patches import KeptPatches

OTHER_BUDGETS = ("50%", "20%", "10%", "5%")
"""At which the last question is asked again, beside the conversation's own."""


@dataclass(frozen=True)
class KeptMoment:
    """What one budget leaves after the answer.

    Attributes:
        budget: as it was given.
        is_own: whether it is the conversation's own.
        pictures: what is kept of each.
        model_dtype: what entries are stored in that are not packed.
        kept_bytes: of all entries.
        row: of a table, behind the budget: the totals as all screens say them, and the answer.
    """

    budget: str
    is_own: bool
    pictures: Sequence[KeptPatches]
    model_dtype: str
    kept_bytes: int
    row: tuple[str, ...]

    @classmethod
    def of(cls, conversation: Conversation, is_own: bool) -> KeptMoment:
        """What a conversation's cache keeps now.

        Raises:
            PrefixKVError: it has read no picture, or one that cannot be painted.
        """
        from prefixkv.chat.kept_patches import kept_patches

        pictures, usage, answer = kept_patches(conversation), conversation.usage(), conversation.last_answer
        said = "" if answer is None else answer.text.strip()
        cache = conversation.cache
        return cls(
            cache.budget.text,
            is_own,
            pictures,
            cache.geometry.dtype,
            usage.kept_bytes,
            (*usage.words(), said),
        )

    def said(self, picture: int, layer: int | None) -> str:
        """What stands over a picture: for one layer, or for all.

        Args:
            picture: its number, from 0.
            layer: the layer's, from 0; None for all.
        """
        patches = self.pictures[picture]
        chosen = range(len(patches.kept)) if layer is None else range(layer, layer + 1)
        where = f"all {len(chosen)} layers" if layer is None else f"layer {layer}"
        stored = (self.model_dtype if bits is None else f"{bits} bits" for bits in (patches.bits[i] for i in chosen))
        share = patches.kept[chosen.start : chosen.stop].mean()
        return (
            f"budget {self.budget}, {where}: {share:.0%} of the tokens kept, in {' and '.join(dict.fromkeys(stored))}"
        )


def kept_moments(conversation: Conversation) -> list[KeptMoment]:
    """What its own budget keeps, and what others do after the last question was asked again; most bytes first.

    Args:
        conversation: between two answers; it stays as it is.

    Raises:
        PrefixKVError: it has read no picture, or one that cannot be painted.
    """
    moments = [KeptMoment.of(conversation, is_own=True), *_others(conversation)]
    return sorted(moments, key=lambda moment: moment.kept_bytes, reverse=True)


def _others(conversation: Conversation) -> Iterator[KeptMoment]:
    from prefixkv.chat.other_budget import asked_again

    own = conversation.cache.budget
    budgets = [budget for budget in OTHER_BUDGETS if Budget.parse(budget).amount != own.amount]
    if not conversation.history or conversation.cache.method.name == "full":
        return
    with progress_bar("asking again under other budgets", total=len(budgets)) as update:
        for done, budget in enumerate(budgets):
            update(completed=done)
            try:
                yield KeptMoment.of(asked_again(conversation, budget), is_own=False)
            except (BudgetTooSmallError, DeviceMemoryError) as error:
                output.notice(f"budget {budget} is left out of the page: {error}")
