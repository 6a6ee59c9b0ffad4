"""What modules, classes and functions are called where another process must find the same ones.

A script is ``__main__`` to itself, ``__mp_main__`` in the children that it spawns and ``shop.tasks`` to the web
application that imports it. Everything that travels or is compared between processes (tasks, classes of values, keys of
journals) carries the last of the three: ``importable_name``.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple, cast

from kapstan.errors import ConfigurationError

MAINS = ("__main__", "__mp_main__")


def importable_name(module: str) -> str:
    """The dotted name under which others import ``module``; differs for ``__main__`` (and ``__mp_main__``) only.

    That of ``python -m shop.tasks`` is ``shop.tasks``; that of a file follows from ``place_of``. A notebook and
    ``python -c`` have none and stay ``__main__``.
    """
    if module not in MAINS:
        return module
    main = sys.modules.get(module) or sys.modules.get("__main__")
    spec = getattr(main, "__spec__", None)
    if spec is not None and spec.name and spec.name not in MAINS:
        return spec.name
    file = getattr(main, "__file__", None)
    return _place_of_script(file).name if file else "__main__"


def class_name(kind: type[Any]) -> str:
    """``module:qualname`` of a class, its module as others import it."""
    return f"{importable_name(str(kind.__module__))}:{kind.__qualname__}"


def identity_of(fn: Callable[..., Any], explicit: str | None) -> str:
    """The identity of a decorated function: ``explicit``, else ``module:qualname``.

    A lambda or a local function gets one as well; whether another process can find it is for ``unfindable`` to say.

    Raises:
        ConfigurationError: an explicit name that no identity can be.
    """
    if explicit:
        if "\0" in explicit or "|" in explicit or len(explicit.encode()) > 200:
            raise ConfigurationError(f"name={explicit!r}: at most 200 bytes, without '|'")
        return explicit
    return _own_name(fn)


def unfindable(name: str, fn: Callable[..., Any]) -> str:
    """Why no other process finds ``fn`` by the identity ``name``, "" if nothing says so."""
    if "<" not in name or name != _own_name(fn):
        return ""
    what = "a lambda" if "<lambda>" in name else "a local function" if "<locals>" in name else "an object"
    return (
        f"{name.partition(':')[2]} is {what}, which other processes cannot find by its name: define it with def at the "
        'top of a module, or give it a name, as in @task(name="charge")'
    )


def _own_name(fn: Any) -> str:
    """``module:qualname``; of a partial that of its function, of an object that of its class, both marked."""
    if isinstance(fn, functools.partial):
        return f"{_own_name(cast('functools.partial[Any]', fn).func)}<partial>"
    qualname = getattr(fn, "__qualname__", None)
    if qualname is None:
        return f"{class_name(cast('type[Any]', type(fn)))}<object>"
    return f"{importable_name(getattr(fn, '__module__', None) or '__main__')}:{qualname}"


def find(module: str, qualname: str) -> Any:
    """What ``qualname`` is in ``module``, by its importable name, if that is loaded here; None if not.

    Imports nothing: a name that came with a value must not run a script.
    """
    found: Any = loaded(module)
    for part in qualname.split("."):
        found = getattr(found, part, None)
    return found


def loaded(module: str) -> ModuleType | None:
    """The module that others import as ``module``, if it is loaded here; the script itself where it is that one."""
    main = sys.modules.get("__main__")
    if main is not None and module != "__main__" and importable_name("__main__") == module:
        return main
    return sys.modules.get(module)


# ---------------------------------------------------------------------------------------------- files


class Place(NamedTuple):
    """Where a file stands among what can be imported."""

    name: str
    """Its dotted name."""
    root: Path
    """The folder on ``sys.path`` that the name begins at."""
    guessed: bool
    """Nothing says that other processes import it by this name."""


def place_of(file: Path, *, script: bool = False) -> Place:
    """The name of ``file`` as other processes import it.

    Folders with an ``__init__.py`` are packages. Above them the nearest folder on ``sys.path`` is the root (a folder
    ``src`` below the working directory counts as one); the folder of a script, which Python puts there itself, only
    where the script was started in it or nothing else fits.

    Args:
        script: it is this process' ``__main__``.
    """
    file = file.resolve()
    base = file.parent
    while (base / "__init__.py").is_file() and base.name.isidentifier():
        base = base.parent
    here = _working_directory()
    roots = [Path(entry or ".").resolve() for entry in sys.path if entry not in _for_neighbours]
    if script and file.parent in roots and file.parent != here:
        roots.remove(file.parent)
    for root in (base, *base.parents):
        if root in roots or (root.name == "src" and here in root.parents):
            return Place(_dotted(file, root), root, guessed=False)
        if not root.name.isidentifier():
            break
    return Place(_dotted(file, base), base, guessed=base == file.parent and here in base.parents)


def doubt_about_main() -> str:
    """Why other processes may call what this script defines by another name; "" if nothing says so."""
    main = sys.modules.get("__main__")
    file = getattr(main, "__file__", None)
    if not file or importable_name("__main__") != _place_of_script(file).name:
        return ""
    place, here = _place_of_script(file), _working_directory()
    path = Path(file).resolve()
    if not place.guessed or not all(part.isidentifier() for part in path.relative_to(here).parent.parts):
        return ""
    other = _dotted(path, here)
    return (
        f"{path.name} is called {place.name!r} here, and {other!r} by a process that is started in {here} and imports "
        f"it: start it as `python -m {other}`, or give its tasks a name"
    )


def import_file(path: str, *, name: str = "") -> ModuleType:
    """The module of a file, imported under the name that other processes use for it.

    Its own folder goes to the end of ``sys.path``, so that it finds its neighbours as a script does.

    Args:
        name: the dotted name to use, where it is known.

    Raises:
        ConfigurationError: there is no such file, or the name belongs to another one.
        Exception: whatever its code raises.
    """
    file = Path(path).resolve()
    if not file.is_file():
        raise ConfigurationError(f"there is no file {path!r} in {Path.cwd()}")
    place = place_of(file)
    name = name or place.name
    root = _root_for(file, name) or place.root
    if str(root) not in sys.path:
        sys.path.insert(0, str(root))
    if str(file.parent) not in sys.path:
        _for_neighbours.add(str(file.parent))
        sys.path.append(str(file.parent))
    module = importlib.import_module(name) if "." not in file.stem else _from_file(name, file)
    has = getattr(module, "__file__", None)
    if has is None or Path(has).resolve() != file:
        raise ConfigurationError(f"{path!r}: the name {name!r} belongs to {has or 'another module'} here; rename one")
    return module


_for_neighbours: set[str] = set()
"""Folders that stand on ``sys.path`` only since a file of theirs was imported; no names begin at them."""


def _from_file(name: str, file: Path) -> ModuleType:
    """A module whose file name Python's import cannot spell."""
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None
    assert spec.loader is not None, "a .py file has a loader"
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _root_for(file: Path, name: str) -> Path | None:
    """The folder that ``name`` begins at, None if it does not end as the path of ``file`` does."""
    depth = name.count(".")
    root = file.parents[depth] if depth < len(file.parents) else None
    return root if root is not None and _dotted(file, root) == name else None


@functools.cache
def _place_of_script(file: str) -> Place:
    return place_of(Path(file), script=True)


def _dotted(file: Path, root: Path) -> str:
    return ".".join([*file.relative_to(root).parent.parts, file.stem.replace(".", "_")])


def _working_directory() -> Path:
    try:
        return Path.cwd()
    except FileNotFoundError:
        return Path("/nonexistent")
