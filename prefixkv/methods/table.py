"""The table of methods: those of the package, those that a program registers, and those of installed packages.

Knows nothing of torch, so that the command line can list the methods at once. A package offers a method by an entry
point of the group `prefixkv.methods`, which has the method's name and refers to a `Method`; it is loaded on first use.
"""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING

from prefixkv.errors import OptionError
from prefixkv.methods.expected import EXPECTED
from prefixkv.methods.full import FULL
from prefixkv.methods.guided import GUIDED
from prefixkv.methods.h2o import H2O
from prefixkv.methods.keydiff import KEYDIFF
from prefixkv.methods.local import LOCAL
from prefixkv.methods.method import Method
from prefixkv.methods.mixkv import MIXKV
from prefixkv.methods.prefixkv import PREFIXKV, RELEASE
from prefixkv.methods.snapkv import PYRAMIDKV, SNAPKV
from prefixkv.methods.tgv import TGV
from prefixkv.methods.triattention import TRIATTENTION

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint, EntryPoints

GROUP = "prefixkv.methods"
"""The group of entry points."""

METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        FULL,
        LOCAL,
        H2O,
        PREFIXKV,
        SNAPKV,
        PYRAMIDKV,
        KEYDIFF,
        EXPECTED,
        MIXKV,
        TRIATTENTION,
        TGV,
        RELEASE,
        GUIDED,
    )
}
"""The methods that are loaded, by name."""

DEFAULT_METHOD = GUIDED.name


def register_method(method: Method) -> Method:
    """Make a method known by its name, in this process and to every function that takes a method's name.

    Args:
        method: under a name that no other method has; once more the same one is harmless.

    Returns:
        The method.

    Raises:
        OptionError: it is no method, or its name is taken.
    """
    if not isinstance(method, Method):
        raise OptionError(f"{method!r} is no method: give a prefixkv.Method")
    if METHODS.setdefault(method.name, method) != method:
        raise OptionError(f"method {method.name!r} is there already: give yours another name")
    return method


def method_names() -> list[str]:
    """All names that `get_method` knows; packages are not loaded for it."""
    return list(dict.fromkeys([*METHODS, *sorted(point.name for point in _offered())]))


def get_method(name: str | Method) -> Method:
    """The method of that name.

    Raises:
        OptionError: names the methods there are, and the nearest one; or says why a package's method is of no use.
    """
    if isinstance(name, Method):
        return name
    if name in METHODS:
        return METHODS[name]
    for point in _offered():
        if point.name == name:
            return _load(point)
    near = difflib.get_close_matches(name.lower(), method_names(), n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise OptionError(f"method {name!r} is not known: {hint}choose one of {', '.join(method_names())}")


def _offered() -> EntryPoints:
    """The methods of installed packages; who names one of our own does not wait for the import of what finds them."""
    from importlib.metadata import entry_points

    return entry_points(group=GROUP)


def _load(point: EntryPoint) -> Method:
    """The method that an installed package offers."""
    try:
        method = register_method(point.load())
    except Exception as error:  # whatever the package's own code raises
        reason = f"{error}" if isinstance(error, OptionError) else f"{type(error).__name__}: {error}"
        raise OptionError(f"method {point.name!r}, {point.value} of an installed package, fails: {reason}") from error
    if method.name != point.name:
        del METHODS[method.name]
        raise OptionError(f"method {point.name!r}, {point.value} of an installed package, calls itself {method.name!r}")
    return method
