"""Names that are loaded when they are first used."""

from __future__ import annotations

import sys
from types import ModuleType

import pytest

from socksclient.protocol.lazy import LazyModule, load_on_use


def test_lazy_module_loads_the_module_with_the_first_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "this_module", raising=False)
    lazy = LazyModule("this_module")
    assert "this_module" not in sys.modules
    loaded = ModuleType("this_module")
    loaded.answer = 42  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "this_module", loaded)
    assert lazy.answer == 42
    with pytest.raises(AttributeError):
        lazy.question  # noqa: B018


def test_load_on_use_keeps_the_name_in_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    package = ModuleType("package_with_lazy_names")
    monkeypatch.setitem(sys.modules, package.__name__, package)
    load, names = load_on_use(package.__name__, {"socksclient.protocol.codes": ["Reply", "Phase"]})
    assert not hasattr(package, "Reply")
    assert {"Phase", "Reply"} <= set(names())
    reply = load("Reply")
    assert vars(package)["Reply"] is reply
    with pytest.raises(AttributeError, match="'package_with_lazy_names' has no attribute 'other'"):
        load("other")
