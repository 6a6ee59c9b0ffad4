"""Which modules belong to the package of a task: their code counts in its fingerprint, that of others by name only."""

from __future__ import annotations

import os
import sys
from importlib.util import find_spec
from pathlib import Path, PurePath
from typing import Any, cast

from kapstan.identity import importable_name, loaded

_INSTALLED = frozenset({"site-packages", "dist-packages"})


class Package:
    """The package of a module: what has the same first name. Of a module that is in no package (``tasks.py``) also the
    modules and packages that stand beside it."""

    def __init__(self, module: str) -> None:
        name = importable_name(module)
        self._top = name.partition(".")[0]
        self._beside: Path | None = None
        place = _place(loaded(name) or sys.modules.get(module))
        top = _place(loaded(self._top) or sys.modules.get(self._top)) or place
        self._folder = None if top is None else str(top.parent)
        if "." not in name and place is not None and place.suffix and not _INSTALLED.intersection(place.parts):
            self._beside = place.parent
        self._known: dict[str, bool] = {"kapstan": self._top == "kapstan"}

    def without_folder(self, value: Any) -> Any:
        """``value``; a path or text that begins with the folder in which the package stands, without that folder."""
        kind = cast("type[Any]", type(value))
        if self._folder is None or not (kind is str or issubclass(kind, PurePath)):
            return value
        text = str(value)
        if text != self._folder and not text.startswith(self._folder + os.sep):
            return value
        return (kind.__name__, "in the package's folder", text[len(self._folder) :].replace(os.sep, "/"))

    def owns(self, module: str) -> bool:
        top = importable_name(module).partition(".")[0]
        if top == self._top:
            return True
        if self._beside is None or top in sys.stdlib_module_names:
            return False
        if top not in self._known:
            place = _place(sys.modules.get(top)) or _found(top)
            self._known[top] = place is not None and place.parent == self._beside
        return self._known[top]


def _place(module: Any) -> Path | None:
    """The file of a module, the folder of a package."""
    folders = list(getattr(module, "__path__", ()))
    place = folders[0] if folders else getattr(module, "__file__", None)
    return Path(place).resolve() if place else None


def _found(top: str) -> Path | None:
    """As ``_place``, of a module that is not loaded."""
    try:
        spec = find_spec(top)
    except (ImportError, ValueError):
        return None
    folders = list(getattr(spec, "submodule_search_locations", None) or ())
    place = folders[0] if folders else getattr(spec, "origin", None)
    return Path(place).resolve() if place else None
