"""Execute examples/notebook.py cell by cell and write what it prints beside it. For developers.

    python scripts/make_notebook.py                      # DB_DSN, or the embedded server

notebook.ipynb (nbformat 4.5) has the cells and their outputs. Needs nothing of Jupyter: each cell's code runs in one
namespace, and what it prints is its output. tests/test_notebook.py does the same and compares.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

SOURCE = Path(__file__).resolve().parent.parent / "examples" / "notebook.py"


class Cell(NamedTuple):
    """A piece of the script between two lines `# %%`, and what it printed."""

    is_code: bool
    source: str
    output: str = ""


def cells(text: str) -> Iterator[Cell]:
    """Those of a script in the percent format; what stands before the first is its header."""
    for head, body in re.findall(r"^# %%(.*)\n((?:(?!# %%).*\n)*)", text, re.M):
        source = body.strip("\n")
        if head.strip() == "[markdown]":
            yield Cell(False, re.sub(r"^# ?", "", source, flags=re.M))
        else:
            yield Cell(True, source)


def executed(text: str) -> list[Cell]:
    """The cells with what they print, all in one namespace."""
    names: dict[str, Any] = {"__name__": "__main__"}
    done = []
    for number, cell in enumerate(cells(text)):
        printed = io.StringIO()
        if cell.is_code:
            with contextlib.redirect_stdout(printed):
                exec(compile(cell.source + "\n", f"cell {number}", "exec"), names)
        done.append(cell._replace(output=printed.getvalue()))
    return done


def notebook(done: list[Cell]) -> str:
    """The document of a notebook, the same for the same cells."""
    language = {"name": "python", "file_extension": ".py", "mimetype": "text/x-python"}
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    document = {
        "cells": [_cell(number, cell, sum(c.is_code for c in done[: number + 1])) for number, cell in enumerate(done)],
        "metadata": {"kernelspec": kernel, "language_info": language},
        "nbformat": 4,
        "nbformat_minor": 5,
    }
    return json.dumps(document, indent=1, ensure_ascii=False) + "\n"


def _cell(number: int, cell: Cell, count: int) -> dict[str, Any]:
    name = hashlib.sha256(f"{number}\n{cell.source}".encode()).hexdigest()[:8]
    common = {"id": name, "metadata": {}, "source": cell.source.splitlines(keepends=True)}
    if not cell.is_code:
        return {"cell_type": "markdown", **common}
    output = {"name": "stdout", "output_type": "stream", "text": cell.output.splitlines(keepends=True)}
    return {"cell_type": "code", "execution_count": count, **common, "outputs": [output] if cell.output else []}


if __name__ == "__main__":
    sys.path.insert(0, str(SOURCE.parent.parent))
    found = executed(SOURCE.read_text(encoding="utf-8"))
    SOURCE.with_suffix(".ipynb").write_text(notebook(found), encoding="utf-8")
