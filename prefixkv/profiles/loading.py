"""How another process or machine loads a model: what can be sent there, and the loading itself."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING

from prefixkv.models.placement import Placement

if TYPE_CHECKING:
    from prefixkv.models.loading import LoadedModel


@dataclasses.dataclass(frozen=True)
class Loading:
    """The arguments of `load_model`, and whether the model's profile is left out."""

    name: str
    device: str = "auto"
    dtype: str = "auto"
    placement: Placement = dataclasses.field(default_factory=Placement)
    no_profile: bool = False

    def load(
        self,
        notify: Callable[[str], None] = lambda text: None,
        progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> LoadedModel:
        """Load it here; see `load_model`."""
        from prefixkv.models.loading import load_model
        from prefixkv.profiles.guidance import leave_out_profile

        loaded = load_model(self.name, self.device, self.dtype, notify, self.placement, progress)
        if self.no_profile:
            leave_out_profile(loaded.model)
        return loaded
