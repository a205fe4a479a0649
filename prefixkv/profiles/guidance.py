"""Finds the look-ahead queries that belong to a model: those of its profile, bundled or measured by the user."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

from prefixkv.cache.capacity import Capacity
from prefixkv.cache.prefix_cache import PrefixKVCache
from prefixkv.errors import PrefixKVError
from prefixkv.methods.method import Method
from prefixkv.methods.table import get_method
from prefixkv.models.identity import ModelIdentity
from prefixkv.policy.budget import Budget
from prefixkv.policy.codec import DEFAULT_CODEC, Codec, get_codec
from prefixkv.policy.look_ahead import LookAhead
from prefixkv.policy.precision import Losses
from prefixkv.profiles.config import PrefixConfig
from prefixkv.profiles.profile import LayerProfile
from prefixkv.profiles.profile_path import profile_path

Notify = Callable[[str], None]

_found: weakref.WeakKeyDictionary[Any, LookAhead | None] = weakref.WeakKeyDictionary()
_without_record: weakref.WeakKeyDictionary[Any, LookAhead | None] = weakref.WeakKeyDictionary()


def make_cache(
    model: Any,
    identity: ModelIdentity,
    budget: str | float | Budget | PrefixConfig,
    method: str | Method,
    notify: Notify,
    codec: str | Codec = DEFAULT_CODEC,
) -> PrefixKVCache:
    """An empty cache for a model, with the look-ahead queries of its profile where the method uses them.

    Args:
        model: of transformers.
        identity: of the model.
        budget: what to keep; or a configuration, which brings its own budget, shares, method and codec.
        method: name of a method; not used with a configuration.
        notify: called with one line where the method wants look-ahead queries and there are none for this model.
        codec: name of a codec; not used with a configuration.

    Raises:
        OptionError: unknown method, budget or codec, or a codec that cannot store the model's vectors.
        BudgetTooSmallError: a hard limit cannot hold the method's protected entries.
        PrefixKVError: the configuration is of another model, or the profile is broken.
    """
    fractions = None
    if isinstance(budget, PrefixConfig):
        budget.require_model(identity)
        fractions, method, codec = budget.keep_fractions, budget.method, budget.codec
        budget = budget.as_budget()
    recipe = get_method(method)
    keeps_all = Capacity(identity.geometry, Budget.parse(budget), recipe, codec=get_codec(codec)).keeps_all
    look_ahead = None if keeps_all else find_look_ahead(model, identity, recipe, notify)
    return PrefixKVCache(identity.geometry, budget, recipe, fractions, look_ahead, codec)


def leave_out_profile(model: Any) -> None:
    """Have all caches that are made for a model from now on do without its profile, the bundled one too.

    Args:
        model: of transformers.
    """
    _found[model] = _of_prompts(model)


def find_look_ahead(model: Any, identity: ModelIdentity, method: str | Method, notify: Notify) -> LookAhead | None:
    """The look-ahead queries of a model's profile, read once for each model.

    Args:
        model: of transformers.
        identity: of the model.
        method: of the cache that is to be made.
        notify: called with one line where the method wants them and there are none.

    Returns:
        Where there are none, what stands for them; for a method that only moves queries, what moves them. None where
        the method does neither, or the model's rotation is not known.

    Raises:
        PrefixKVError: the profile is broken.
    """
    method = get_method(method)
    if not method.is_guided:
        return _rotation_alone(model, method, notify) if method.moves else None
    if model not in _found:
        _found[model] = _read(model, identity, method, notify)
    return _found[model]


def _rotation_alone(model: Any, method: Method, notify: Notify) -> LookAhead | None:
    if model not in _without_record:
        _without_record[model] = _of_prompts(model)
        if _without_record[model] is None:
            notify(f"{method.name} takes queries where they are: how {type(model).__name__} rotates them is not known")
    return _without_record[model]


def _read(model: Any, identity: ModelIdentity, method: Method, notify: Notify) -> LookAhead | None:
    path = profile_path(identity.id)
    missing = f"there is no profile of {identity.id!r}" if path is None else None
    profile = None if path is None else LayerProfile.load(path)
    if profile is not None:
        if different := profile.model.differences(identity):
            missing = f"{path} is of another model ({', '.join(different)})"
        elif profile.look_ahead is None:
            missing = f"{path} holds no look-ahead queries"
    if missing is None and profile is not None and profile.look_ahead is not None:
        try:
            losses = Losses(profile.rounding_losses, profile.eviction_losses, profile.mixed_losses)
            return LookAhead.read(profile.look_ahead.read(), model, identity.geometry, losses)
        except PrefixKVError as error:
            missing = str(error)
    notify(
        f"{method.name} works without look-ahead queries of a profile, by the prompt's own: {missing}; "
        f"measure one with `prefixkv profile --model {identity.id}`"
    )
    return _of_prompts(model)


def _of_prompts(model: Any) -> LookAhead | None:
    """What stands for a profile's queries; None where they cannot be moved, so that they stay where they are."""
    try:
        return LookAhead.of_prompts(model)
    except PrefixKVError:
        return None
