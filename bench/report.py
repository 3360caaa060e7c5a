"""How rows are made, judged, printed and kept. A row is a ratio taken turn by turn, with all its readings."""

from __future__ import annotations

import argparse
import hashlib
import re
import statistics
from collections.abc import Callable, Iterable
from typing import Any, TypeAlias

import psycopg

from bench import measure
from engine_py import __version__
from engine_py.install import sql_dir
from engine_py.render import table

Row: TypeAlias = dict[str, Any]
Document: TypeAlias = dict[str, Any]
MET, NOT_MET, NOT_MEASURED, NO_TARGET = "met", "not met", "not measured", ""
_TARGET = re.compile(r"(<=|>=) (\d+(?:\.\d+)?)( in every turn)?")


def row(name: str, against: str, target: str | None, unit: str, a: list[float], b: list[float], **more: Any) -> Row:
    """The ratio `name`/`against`. `unit` is that of the readings; `target` what the ratio's median should be, like
    "<= 0.3", or each turn's, "<= 0.3 in every turn".
    """
    return {
        "name": name,
        "against": against,
        "target": target,
        "unit": unit,
        "ratio": measure.ratio(a, b),
        "readings": {name: a, against: b},
        **more,
    }


def not_measured(name: str, against: str, target: str | None, why: str, **more: Any) -> Row:
    return {
        "name": name,
        "against": against,
        "target": target,
        "unit": None,
        "ratio": None,
        "readings": {},
        "not_measured": why,
        **more,
    }


def verdict(one: Row) -> str:
    if one["ratio"] is None:
        return NOT_MEASURED
    if one["target"] is None:
        return NO_TARGET
    found = _TARGET.fullmatch(one["target"])
    if found is None:
        raise ValueError(f"not a target: {one['target']}")
    sign, limit, every = found[1], float(found[2]), found[3]
    value = one["ratio"][("max" if sign == "<=" else "min") if every else "median"]
    return MET if (value <= limit if sign == "<=" else value >= limit) else NOT_MET


def number(value: float) -> str:
    """Three digits that count; whole numbers from 100 on."""
    return f"{value:,.0f}" if abs(value) >= 99.95 else f"{value:.3g}"


def spread(values: dict[str, float]) -> str:
    """Median (lowest-highest)."""
    return f"{number(values['median'])} ({number(values['min'])}-{number(values['max'])})"


def readings(one: Row) -> str:
    """The medians of both sides, in their unit."""
    if one["ratio"] is None:
        return "-"
    ours, theirs = (number(statistics.median(one["readings"][side])) for side in (one["name"], one["against"]))
    return f"{ours} / {theirs} {one['unit']}"


def words(rows: Iterable[Row]) -> str:
    columns = ("measure", "against", "ratio", "target", "verdict", "readings")
    return table(
        [
            {
                "measure": one["name"],
                "against": one["against"],
                "ratio": spread(one["ratio"]) if one["ratio"] else "-",
                "target": one["target"],
                "verdict": ": ".join(filter(None, (verdict(one), one.get("not_measured")))),
                "readings": readings(one),
            }
            for one in rows
        ],
        columns,
    )


def tally(rows: Iterable[Row]) -> str:
    """How many targets are met; a target that was not measured is not met either, and is counted apart."""
    verdicts = [verdict(one) for one in rows if one["target"] is not None]
    counts = ", ".join(f"{verdicts.count(kind)} {kind}" for kind in (MET, NOT_MET, NOT_MEASURED))
    return f"{len(verdicts)} targets: {counts}"


def parser(about: str | None) -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    size = made.add_mutually_exclusive_group()
    size.add_argument("--quick", action="store_true", help="a minute or two: enough to see that it works (default)")
    size.add_argument("--full", action="store_true", help="what the published figures are taken with")
    return made


def publish(name: str, full: bool, rows: Callable[[str], list[Row]], **about: Callable[[str], Any]) -> Document:
    """Measure on a server of its own; save results/NAME.json, or NAME.quick.json, if anything was measured.

    `rows`, and `about` for what else to keep, are called with the server's DSN.
    """
    document: Document = {
        "measured": measure.today(),
        "quick": not full,
        "machine": measure.machine(),
        "papertick": __version__,
        "sql": _fingerprint(),
    }
    with measure.server() as dsn:
        with psycopg.connect(dsn) as conn:
            document["server"] = measure.versions(conn)
        document["rows"] = rows(dsn)
        document |= {key: look(dsn) for key, look in about.items()}
    document["sql_changed_meanwhile"] = _fingerprint() != document["sql"]
    if any(one["ratio"] for one in document["rows"]):
        measure.save(name if full else f"{name}.quick", document)
    return document


def _fingerprint() -> str:
    """Tells one state of the engine's SQL from another."""
    total = hashlib.sha256()
    for path in sorted(sql_dir().glob("[0-9][0-9]_*.sql")):
        total.update(path.read_bytes())
    return total.hexdigest()[:12]
