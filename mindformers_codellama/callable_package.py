"""Packages that share their name with the function they are known for.

`from mindformers_codellama import pipeline` must give something to call, whether or not the
subpackage `pipeline` was imported before (the import system then has set the package itself as
that attribute). So the package is made callable, and both uses stay right.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import Any


class CallablePackage(ModuleType):
    """A package; calling it calls `FUNCTION` of the package, written `module:function`."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the function the package is named after."""
        module, function = self.FUNCTION.split(":")
        return getattr(import_module(f"{self.__name__}.{module}"), function)(*args, **kwargs)


def make_callable(package: str) -> None:
    """Let an imported package, which defines `FUNCTION`, be called."""
    sys.modules[package].__class__ = CallablePackage
