"""Names that are loaded when they are first used, so that importing a package costs little."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping
from importlib import import_module

# A type checker takes this for `typing.TYPE_CHECKING`. To import typing would cost time.
TYPE_CHECKING = False

__all__ = ["LazyModule", "load_on_use", "typing_extensions"]


class LazyModule:
    """Stand for a module in annotations, and load it when one of its names is asked for.

    `typing.get_type_hints` looks up the names in an annotation in the module of the annotation. So
    the names must be there when the program runs, and not only ``if TYPE_CHECKING``. But
    `import socksclient` must not load a module such as ssl for annotations alone.

    Args:
        name: The name of the module, such as "ssl".
    """

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, attribute: str) -> object:
        return getattr(import_module(self._name), attribute)


def load_on_use(
    package: str, modules: Mapping[str, Iterable[str]]
) -> tuple[Callable[[str], object], Callable[[], list[str]]]:
    """Return the ``__getattr__`` and the ``__dir__`` of a package that loads its names on use.

    Args:
        package: The name of the package.
        modules: For each module, the names that the package has from it.
    """
    homes = {name: module for module, names in modules.items() for name in names}

    def load(name: str) -> object:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = getattr(import_module(homes[name]), name)
        # The next use finds the name in the package, and does not call this function.
        setattr(sys.modules[package], name, value)
        return value

    def names() -> list[str]:
        return sorted({*vars(sys.modules[package]), *homes})

    return load, names


if TYPE_CHECKING:
    import typing_extensions
else:
    # Python 3.13 has all the names that socksclient needs in typing. anyio brings
    # typing_extensions for older versions.
    typing_extensions = LazyModule("typing" if sys.version_info >= (3, 13) else "typing_extensions")
