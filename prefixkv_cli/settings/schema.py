"""What the settings file may hold: the defaults of options that several commands share, by the options' names."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

from pydantic import AfterValidator, ConfigDict

from prefixkv.errors import PrefixKVError
from prefixkv.generation.sampling import Sampling
from prefixkv.inputs.picture_size import check_max_pixels
from prefixkv.methods.table import get_method
from prefixkv.models.loading import check_device_name, check_dtype_name
from prefixkv.policy.budget import Budget
from prefixkv.policy.codec import get_codec
from prefixkv.schemas.field import Name, Schema


def _checked(check: Callable[[Any], object]) -> AfterValidator:
    """A validator that refuses what an option refuses, in the option's own words."""

    def validate(value: Any) -> Any:
        try:
            check(value)
        except PrefixKVError as error:
            raise ValueError(str(error)) from None
        return value

    return AfterValidator(validate)


class SettingsSchema(Schema):
    """The whole file; every value may be missing."""

    model_config = ConfigDict(extra="forbid", alias_generator=lambda field: field.replace("_", "-"))

    model: Name | None = None
    budget: Annotated[Name, _checked(Budget.parse)] | None = None
    method: Annotated[Name, _checked(get_method)] | None = None
    codec: Annotated[Name, _checked(get_codec)] | None = None
    config: Name | None = None
    system: Name | None = None
    max_new_tokens: Annotated[int, _checked(lambda value: Sampling(max_new_tokens=value))] | None = None
    temperature: Annotated[float, _checked(lambda value: Sampling(temperature=value))] | None = None
    top_p: Annotated[float, _checked(lambda value: Sampling(top_p=value))] | None = None
    seed: Annotated[int, _checked(lambda value: Sampling(seed=value))] | None = None
    max_pixels: Annotated[int, _checked(check_max_pixels)] | None = None
    keep_marks: bool | None = None
    device: Annotated[Name, _checked(check_device_name)] | None = None
    device_map: Name | None = None
    dtype: Annotated[Name, _checked(check_dtype_name)] | None = None
    load_in_8bit: bool | None = None
    load_in_4bit: bool | None = None
    plain: bool | None = None
    stats: bool | None = None
    quiet: bool | None = None
    log: bool | None = None
