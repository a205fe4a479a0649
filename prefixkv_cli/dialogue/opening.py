"""What a conversation begins with: options that belong together, checked before a model is loaded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefixkv.errors import OptionError, PrefixKVError
from prefixkv.generation.sampling import Sampling
from prefixkv.home import find_file
from prefixkv.inputs.template_args import parse_template_args
from prefixkv.methods.table import get_method
from prefixkv.models.names import check_device_name, check_dtype_name, check_model_name, source_of
from prefixkv.models.placement import Placement
from prefixkv.policy.budget import Budget
from prefixkv.policy.codec import DEFAULT_CODEC, get_codec
from prefixkv_cli import output
from prefixkv_cli.dialogue.picture_input import open_pictures
from prefixkv_cli.model_choice import model_for_pictures

if TYPE_CHECKING:
    from PIL.Image import Image

    from prefixkv.chat.conversation import Conversation
    from prefixkv.models.loading import LoadedModel
    from prefixkv.profiles.config import PrefixConfig


_KEPT = {"budget", "method", "codec", "config", "system", "template_arg"}
"""Options that a saved context brings with it."""


@dataclass
class Opening:
    """The options of `chat` and `save`, as the user gave them.

    Attributes:
        given: names of the options that are on the command line; they win over environment variables.
        model: as for `load_model`.
        budget: as `Budget.parse` reads it.
        method: name of a method.
        config: name or file of a configuration.
        search: `config` takes the configuration's shares, `online` its budget only.
        sampling: how tokens are chosen.
        device: as for `load_model`.
        dtype: likewise.
        placement: likewise.
        images: sources of pictures, in order.
        context: name or file of a saved context.
        system: instructions before the first turn.
        template_args: for the model's chat template, each NAME=VALUE.
        max_pixels: most of a picture; None for no limit.
        keep_marks: whether special tokens are part of the answers.
        codec: name of a codec.
        no_profile: whether the model's profile is left out.
    """

    given: set[str]
    model: str
    budget: str
    method: str
    sampling: Sampling
    config: str | None = None
    search: str = "config"
    device: str = "auto"
    dtype: str = "auto"
    placement: Placement = field(default_factory=Placement)
    images: list[str] = field(default_factory=list)
    context: str | None = None
    system: str = ""
    template_args: Sequence[str] = ()
    max_pixels: int | None = None
    keep_marks: bool = False
    codec: str = DEFAULT_CODEC
    no_profile: bool = False

    def check(self) -> None:
        """Check all that needs no model, and read the pictures.

        Raises:
            PrefixKVError: something is not allowed or not there.
        """
        self._budget: Budget | PrefixConfig = Budget.parse(self.budget)
        get_method(self.method)
        get_codec(self.codec)
        if self.search not in ("config", "online"):
            raise OptionError(f"search {self.search!r} is not known: choose config or online")
        self._template_args = parse_template_args(self.template_args)
        if self.max_pixels is not None:
            from prefixkv.inputs.picture_size import check_max_pixels

            check_max_pixels(self.max_pixels)
        check_device_name(self.device)
        check_dtype_name(self.dtype)
        self._take_config()
        self._context_file, head = self._context_head()
        self._pictures = [picture for source in self.images for picture in open_pictures(source)]
        if self._context_file is not None:
            self._require_pictures_of(head, self._context_file)
        check_model_name(self.model)

    @property
    def pictures(self) -> list[Image]:
        """The pictures, once they are checked."""
        return self._pictures

    @property
    def parsed_template_args(self) -> dict[str, Any]:
        """The values for the chat template by name, once they are checked."""
        return self._template_args

    def require_pictures(self, model: str | None = None) -> None:
        """Refuse a question without a picture to the demo model, which cannot answer one.

        Args:
            model: its name; the one that was asked for where None.

        Raises:
            PrefixKVError: there is no picture.
        """
        if (model or self.model) == "demo" and not self._pictures and self.context is None:
            raise PrefixKVError(
                "the demo model answers questions about a picture: give one (`prefixkv demo-scene scene.png` draws "
                "one), or choose another --model"
            )

    def choose_model(self) -> None:
        """Decide which model `auto` is, which may ask the user.

        Raises:
            PrefixKVError: there is none that can answer.
        """
        self.model = model_for_pictures(self.model, self.device, self._pictures)

    def is_model_here(self) -> bool:
        """Whether the chosen model can be loaded without a download."""
        from prefixkv.models.download import is_here

        source = source_of(self.model)
        return (
            self.model == "auto" or Path(source).is_dir() or is_here(source, with_code=self.placement.trust_remote_code)
        )

    def load(self, model: str, shown: bool = True) -> LoadedModel:
        """Load a model onto the device, and in the dtype, that were asked for; without its profile where that was said.

        Args:
            model: its name.
            shown: whether the terminal may show that it is loaded.

        Raises:
            PrefixKVError: it cannot be had.
        """
        # Here, so that who asks a server does not load what loads a model.
        from prefixkv_cli.model_loading import load_shown

        loaded = load_shown(model, self.device, self.dtype, output.notice, self.placement, shown)
        if self.no_profile:
            from prefixkv.profiles.guidance import leave_out_profile

            leave_out_profile(loaded.model)
        return loaded

    def conversation(self, needs_pictures: bool = True, shown: bool = True) -> Conversation:
        """Load the chosen model and begin, or go on with what was saved.

        Args:
            needs_pictures: whether a question is asked before a picture can be added.
            shown: whether the terminal may show that the model is loaded.

        Raises:
            PrefixKVError: the model cannot be loaded, or the context is of another one.
        """
        loaded = self.load(self.model, shown)
        from prefixkv.chat.conversation import Conversation

        if self._context_file is not None:
            from prefixkv.chat.context import load_context

            conversation = load_context(self._context_file, loaded, self.sampling, output.notice)
            conversation.max_pixels, conversation.keep_marks = self.max_pixels, self.keep_marks
            return conversation
        if needs_pictures:
            self.require_pictures(loaded.id)
        conversation = Conversation(
            loaded,
            self._budget,
            self.method,
            self.sampling,
            output.notice,
            self._template_args,
            self.max_pixels,
            self.keep_marks,
            self.codec,
        )
        if self.system:
            conversation.instruct(self.system)
        for picture in self._pictures:
            conversation.attach(picture)
        return conversation

    def _take_config(self) -> None:
        """Replace budget, method and codec by the configuration's, unless those are what the command line asks for."""
        chosen = self.given & {"budget", "method", "codec"}
        if self.config is not None and chosen and "config" in self.given:
            raise OptionError("a configuration brings its own budget, method and codec: give either --config or those")
        if self.config is not None and not chosen:
            from prefixkv.profiles.config import PrefixConfig

            config = PrefixConfig.load(find_file("configs", self.config))
            self._budget = config.as_budget() if self.search == "online" else config
            self.method, self.codec = config.method, config.codec
        method, budget = get_method(self.method), self._budget
        if not get_codec(self.codec).is_auto:
            return
        if isinstance(budget, Budget) and method.keeps_all and not budget.is_hard_limit and budget.amount != 1:
            output.notice(f"method {method.name!r} keeps everything: the budget of {budget.text} is not applied")

    def _context_head(self) -> tuple[Path | None, dict[str, Any]]:
        """The saved context's file and head; its model and dtype are taken unless others were asked for."""
        if self.context is None:
            return None, {}
        refused = [name.replace("_", "-") for name in sorted(self.given & _KEPT)]
        if refused:
            raise OptionError(
                f"a context brings its own {refused[0]}: leave --{refused[0]} out, or change it in the conversation"
            )
        from prefixkv.chat.context_file import read_head

        path = find_file("contexts", self.context)
        head = read_head(path)
        model: Any = head.get("model")
        if not isinstance(model, dict) or not isinstance(model.get("id"), str):
            raise PrefixKVError(f"context {path} does not say its model: save it again with `prefixkv save`")
        if "model" not in self.given:
            self.model = model["id"]
        if "dtype" not in self.given:
            self.dtype = str(model.get("dtype"))
        return path, head

    def _require_pictures_of(self, head: dict[str, Any], path: Path) -> None:
        """Pictures beside a context may only be those that it holds: they are never mixed up."""
        from prefixkv.inputs.images import picture_sha256
        from prefixkv.inputs.picture_size import within_pixels

        held = {picture["sha256"] for picture in head.get("pictures", [])}
        for picture in self._pictures:
            if picture_sha256(within_pixels(picture, self.max_pixels)) not in held:
                raise PrefixKVError(
                    f"image {picture.info['name']!r} is none of the pictures of context {path.stem!r}: leave it out, "
                    "or add it in the conversation with /image"
                )
