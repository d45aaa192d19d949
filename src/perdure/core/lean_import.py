"""Import the API's message classes without the SDK around them.

``import temporalio.api`` runs ``temporalio/__init__.py`` first, which loads the whole SDK with its native client: 0.2 s and 25 MiB that a
server never uses. A server process calls :func:`defer_sdk` before anything else; a process that also runs the SDK need not.
"""

from __future__ import annotations

import importlib.util
import sys
from types import ModuleType
from typing import Any


class _DeferredPackage(ModuleType):
    """A package whose submodules can be imported at once, and whose own code runs when one of its own names is first asked for."""

    def __getattr__(self, name: str) -> Any:
        # The import system asks every package for such names; only the version is one that the package itself defines.
        if name.startswith("__") and name != "__version__":
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        spec = self.__spec__
        assert spec is not None
        assert spec.loader is not None
        object.__setattr__(self, "__class__", ModuleType)  # so that the package's own code does not end up here again
        try:
            spec.loader.exec_module(self)
        except BaseException:
            object.__setattr__(self, "__class__", _DeferredPackage)
            raise
        return getattr(self, name)


def defer_sdk() -> None:
    """Let ``temporalio.api`` be imported without the SDK's runtime; the SDK stays importable, and loads when it is used.

    Does nothing when ``temporalio`` has been imported before, or is not installed (the import that needs it will say so).
    """
    if "temporalio" in sys.modules:
        return
    spec = importlib.util.find_spec("temporalio")
    if spec is None or spec.submodule_search_locations is None:
        return
    package = _DeferredPackage(spec.name, None)
    package.__spec__ = spec
    package.__path__ = spec.submodule_search_locations
    package.__file__ = spec.origin
    package.__package__ = spec.name
    package.__loader__ = spec.loader
    sys.modules[spec.name] = package
