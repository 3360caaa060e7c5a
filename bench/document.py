"""Write the tables of docs/performance.md from results/*.json, so that no figure there is typed by hand.

usage: python -m bench.document [--check]      --check writes nothing and exits 1 if the file is not as it would be

A table stands between <!-- bench:NAME --> and <!-- /bench -->. Of each benchmark the full results count if there are
any, else the quick ones.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from bench.measure import RESULTS
from bench.report import NOT_MEASURED, NOT_MET, Document, Row, number, readings, spread, tally, verdict

PAGE = Path(__file__).parent.parent / "docs" / "performance.md"
BENCHMARKS = ("ticks", "fleet", "store", "replay", "http")
_NOTHING = "Not measured yet."
_BLOCK = re.compile(r"(<!-- bench:(\w+) -->\n).*?(<!-- /bench -->)", re.DOTALL)


def load(folder: Path = RESULTS) -> dict[str, Document]:
    found = {}
    for name in BENCHMARKS:
        for path in (folder / f"{name}.json", folder / f"{name}.quick.json"):
            if path.exists():
                found[name] = json.loads(path.read_text())
                break
    return found


def render(page: str, results: dict[str, Document]) -> str:
    """The page with every block as the results have it. ValueError if a block is unknown, missing or there twice."""
    named = [block[2] for block in _BLOCK.finditer(page)]
    if sorted(named) != sorted(_BLOCKS):
        raise ValueError(f"the page has the blocks {sorted(named)}, and should have {sorted(_BLOCKS)}")
    return _BLOCK.sub(lambda block: f"{block[1]}\n{_BLOCKS[block[2]](results)}\n\n{block[3]}", page)


def markdown(columns: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    made = [columns, ["---"] * len(columns), *lines]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in made)


def _all_rows(results: dict[str, Document]) -> list[Row]:
    return [one for document in results.values() for one in document["rows"]]


# --- what it was measured on


def _measured(results: dict[str, Document]) -> str:
    if not results:
        return _NOTHING
    lines = []
    for name, document in results.items():
        machine, server = document["machine"], document["server"]
        engine = (
            f"{document['papertick']}, SQL {document['sql']}"
            + ", changed meanwhile" * document["sql_changed_meanwhile"]
        )
        lines.append(
            (
                name,
                "quick" if document["quick"] else "full",
                document["measured"],
                engine,
                server["server_version"],
                machine["python"],
                f"{machine['cpu']}, {machine['cores']} cores, {machine['system']}",
                f"{machine['load']}",
                _noise(document["rows"]),
            )
        )
    settings = sorted({_settings(document) for document in results.values()})
    columns = ("benchmark", "set", "measured", "papertick", "PostgreSQL", "Python", "machine", "load before", "noise")
    notes = [f"Server: {'; or '.join(settings)}.", f"{tally(_all_rows(results))}."]
    if any(document["quick"] for document in results.values()):
        notes.append("The targets are meant for the full set; a quick one's sizes are smaller and its turns few.")
    return markdown(columns, lines) + "\n\n" + " ".join(notes)


def _settings(document: Document) -> str:
    server = document["server"]
    return ", ".join(f"`{key}={value}`" for key, value in server.items() if key != "server_version")


def _noise(rows: list[Row]) -> str:
    """How far one side's readings lie apart, in per cent of their median."""
    sides = [side for one in rows for side in one["readings"].values() if len(side) > 1 and statistics.median(side)]
    if not sides:
        return "-"
    apart = [100 * (max(side) - min(side)) / statistics.median(side) for side in sides]
    return f"{statistics.median(apart):.0f} % (worst {max(apart):.0f} %)"


# --- tables of rows


def _table(rows: Iterable[Row]) -> str:
    return markdown(
        ("measure", "against", "ratio", "target", "", "readings"),
        [
            (
                one["name"],
                one["against"],
                spread(one["ratio"]) if one["ratio"] else one["not_measured"],
                one["target"] or "",
                _verdict(one),
                readings(one),
            )
            for one in rows
        ],
    )


def _verdict(one: Row) -> str:
    said = verdict(one)
    return f"**{said}**" if said == NOT_MET else said


def _rows_of(name: str) -> Callable[[dict[str, Document]], str]:
    return lambda results: _table(results[name]["rows"]) if name in results else _NOTHING


def _replay(results: dict[str, Document]) -> str:
    """What has a target, the limits, and papertick against itself; the peers have a table of their own."""
    if "replay" not in results:
        return _NOTHING
    return _table(one for one in results["replay"]["rows"] if one["target"] or _rival(one) is None)


def _rival(one: Row) -> str | None:
    """The peer of a row that compares with one: its own, not the best of them."""
    peer = one.get("peer")
    return peer if peer == one["against"] and peer in _peers([one]) else None


def _peers(rows: Iterable[Row]) -> dict[str, Row]:
    """Peer: what it told of itself. papertick and the raw inserts tell no fill rule."""
    found: dict[str, Row] = {}
    for one in rows:
        told = one.get("about", {}).get(one["against"], {})
        if "fill" in told:
            found[one["peer"]] = told
    return found


def _field(results: dict[str, Document]) -> str:
    """Every engine's speed on every workload, and papertick's over it."""
    if "replay" not in results:
        return _NOTHING
    rows = [
        one for one in results["replay"]["rows"] if one.get("workload") and one["ratio"] and one["unit"] == "bars/s"
    ]
    workloads = sorted({one["workload"] for one in rows})
    speeds: dict[str, dict[str, str]] = {}
    ratios: dict[str, dict[str, list[str]]] = {}
    cases = list(dict.fromkeys(one["case"] for one in rows))
    for one in rows:
        rate = statistics.median(one["readings"][one["name"]]) / 1e3
        speeds.setdefault(f"**papertick {one['case']}**", {})[one["workload"]] = number(rate)
    for one in filter(_rival, rows):
        rate = statistics.median(one["readings"][one["against"]]) / 1e3
        speeds.setdefault(one["peer"], {})[one["workload"]] = number(rate)
        ratios.setdefault(one["peer"], {}).setdefault(one["workload"], []).append(
            f"{_letter(cases, one['case'])} {spread(one['ratio'])}"
        )
    told = _peers(rows)
    fast = markdown(
        ("thousand bars/s", "version", "fills at", *workloads),
        [
            (
                name,
                told.get(name, {}).get("version", ""),
                told.get(name, {}).get("fill", "same_close").replace("_", " "),
                *(each.get(workload, "-") for workload in workloads),
            )
            for name, each in speeds.items()
        ],
    )
    against = markdown(
        ("papertick / engine", *workloads),
        [(name, *("<br>".join(each.get(workload, ["-"])) for workload in workloads)) for name, each in ratios.items()],
    )
    legend = ", ".join(f"{_letter(cases, case)} = {case}" for case in cases)
    return f"{fast}\n\n{against}\n\n{legend}."


def _letter(cases: list[str], case: str) -> str:
    return "ABC"[cases.index(case)]


# --- profile, and what is not reached


def _profile(results: dict[str, Document]) -> str:
    profile = results.get("ticks", {}).get("profile")
    if not profile:
        return _NOTHING
    kinds = list(profile)
    totals = {kind: sum(profile[kind].values()) for kind in kinds}
    names = sorted(
        {name for each in profile.values() for name in each}, key=lambda n: (-profile[kinds[-1]].get(n, 0), n)
    )
    lines = [(f"`{name}`", *(_us(profile[kind].get(name)) for kind in kinds)) for name in names]
    lines.append(("sum", *(f"{totals[kind]:.0f}" for kind in kinds)))
    return markdown(("self time, us a tick", *kinds), lines)


def _us(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def _unmet(results: dict[str, Document]) -> str:
    if not results:
        return _NOTHING
    rows = [one for one in _all_rows(results) if one["target"] and verdict(one) in (NOT_MET, NOT_MEASURED)]
    return _table(rows) if rows else "Every target is met."


def _faster(results: dict[str, Document]) -> str:
    """Whoever is faster than papertick at a workload, target or not."""
    if "replay" not in results:
        return _NOTHING
    rows = [one for one in results["replay"]["rows"] if one["ratio"] and _rival(one) and one["ratio"]["median"] < 1]
    return _table(rows) if rows else "No engine of the table above was faster."


_BLOCKS: dict[str, Callable[[dict[str, Document]], str]] = {
    "measured": _measured,
    "ticks": _rows_of("ticks"),
    "fleet": _rows_of("fleet"),
    "replay": _replay,
    "peers": _field,
    "store": _rows_of("store"),
    "http": _rows_of("http"),
    "profile": _profile,
    "unmet": _unmet,
    "faster": _faster,
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="only tell whether the file is as it would be written")
    check = parser.parse_args().check
    there = PAGE.read_text()
    wanted = render(there, load())
    if check:
        if there != wanted:
            print(f"{PAGE} is not what bench/results say: python -m bench.document", file=sys.stderr)
        return int(there != wanted)
    PAGE.write_text(wanted)
    return 0


if __name__ == "__main__":
    sys.exit(main())
