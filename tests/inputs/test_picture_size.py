"""A limit on a picture's pixels."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from prefixkv.errors import OptionError
from prefixkv.inputs.images import check_shape
from prefixkv.inputs.picture_size import check_max_pixels, scaled_down, within_pixels
from prefixkv.pixels import LEAST_PIXELS


@given(st.integers(1, 700), st.integers(1, 700), st.integers(LEAST_PIXELS, 300_000))
def test_no_more_pixels_and_nearly_the_same_form(width: int, height: int, limit: int) -> None:
    image = Image.new("RGB", (width, height))
    found = within_pixels(image, limit)
    assert found.width * found.height <= max(limit, 0)
    if width * height <= limit:
        assert found is image
        return
    assert found.width * found.height > limit / 2 or max(width, height) > 20 * min(width, height)
    if max(width, height) <= 100 * min(width, height):
        check_shape(found, "scaled")
    assert (found.width >= found.height) == (width >= height) or abs(width - height) < 3


def test_the_name_stays_and_is_said() -> None:
    image = Image.new("RGB", (4000, 3000))
    image.info["name"] = "desk.jpg"
    said: list[str] = []
    found, same = scaled_down([image, Image.new("RGB", (9, 9))], 1_000_000, said.append)
    assert (found.info["name"], same.size) == ("desk.jpg", (9, 9))
    assert said == ["desk.jpg (4000 x 3000) is scaled down to 1154 x 866 pixels"]


@pytest.mark.parametrize("limit", [1023, 0, -5])
def test_too_small_a_limit_is_refused(limit: int) -> None:
    with pytest.raises(OptionError, match=r"give 1,024 or more"):
        check_max_pixels(limit)
