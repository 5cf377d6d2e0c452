"""`LazyModule`, for annotations that name modules which most programs never load."""

from __future__ import annotations

from importlib import import_module

__all__ = ["LazyModule"]


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
