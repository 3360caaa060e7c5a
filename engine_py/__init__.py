"""papertick: a paper-trading engine that lives inside PostgreSQL. This package is its thin door.

As a library: `import engine_py as papertick`, then `with papertick.connect() as pt: …`; see docs/python.md.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from engine_py.arguments import NULL
    from engine_py.client import Papertick, connect
    from engine_py.client_run import Run, User
    from engine_py.errors import PapertickError
    from engine_py.results import Performance, Rows

__version__ = "0.1.0"
__all__ = ["NULL", "Papertick", "PapertickError", "Performance", "Rows", "Run", "User", "__version__", "connect"]

_HOMES = {
    "NULL": "arguments",
    "Papertick": "client",
    "PapertickError": "errors",
    "Performance": "results",
    "Rows": "results",
    "Run": "client_run",
    "User": "client_run",
    "connect": "client",
}


def __getattr__(name: str) -> Any:
    """The library is loaded when it is first asked for: the command line does not wait for it."""
    if name not in _HOMES:
        raise AttributeError(f"module 'engine_py' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"engine_py.{_HOMES[name]}"), name)
