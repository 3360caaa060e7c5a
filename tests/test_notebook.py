"""examples/notebook.py prints what stands in examples/notebook.ipynb, with pandas and without, and leaves no run.

UPDATE_EXAMPLES=1 writes the notebook instead of comparing it.
"""

from __future__ import annotations

import json
import os
import runpy
import sys
from pathlib import Path
from typing import Any

import psycopg
import pytest

PROJECT = Path(__file__).resolve().parent.parent
SOURCE = PROJECT / "examples" / "notebook.py"
NOTEBOOK = SOURCE.with_suffix(".ipynb")
MAKE = runpy.run_path(str(PROJECT / "scripts" / "make_notebook.py"))


def outputs(document: dict[str, Any]) -> list[list[str]]:
    return [line for cell in document["cells"] for out in cell.get("outputs", []) for line in [out["text"]]]


def test_it_prints_what_the_notebook_shows(db: psycopg.Connection, dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pandas")
    monkeypatch.setenv("DB_DSN", dsn)
    found = MAKE["notebook"](MAKE["executed"](SOURCE.read_text()))
    if os.environ.get("UPDATE_EXAMPLES"):
        NOTEBOOK.write_text(found, encoding="utf-8")
    assert found == NOTEBOOK.read_text(encoding="utf-8")
    for table in ("app_user", "strategy_run"):
        assert db.execute(f"select count(*) from {table}").fetchone() == (0,), table


@pytest.mark.usefixtures("db")
def test_without_pandas_it_prints_the_same_but_for_the_frame(dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DB_DSN", dsn)
    monkeypatch.setitem(sys.modules, "pandas", None)
    shown = outputs(json.loads(NOTEBOOK.read_text(encoding="utf-8")))
    found = outputs(json.loads(MAKE["notebook"](MAKE["executed"](SOURCE.read_text()))))
    (other,) = [n for n, (one, two) in enumerate(zip(found, shown, strict=True)) if one != two]
    assert found[other] == ["pandas is not installed: pip install 'papertick[frames]'\n"]


def test_the_notebook_is_one() -> None:
    document = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    assert (document["nbformat"], document["nbformat_minor"]) == (4, 5)
    assert document["metadata"]["kernelspec"]["name"] == "python3"
    cells = document["cells"]
    assert len({cell["id"] for cell in cells}) == len(cells) > 10
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    for cell in cells:
        needed = {"id", "metadata", "source", "cell_type"}
        assert set(cell) == needed | ({"execution_count", "outputs"} if cell in code else set())
        assert all(out["output_type"] == "stream" and out["name"] == "stdout" for out in cell.get("outputs", []))
    source = "".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
    assert source.startswith("# Two SIPs through 2008\n")
    assert "# %%" not in source
