"""All benchmarks, one table.

Exit status: 0, whether targets are met or not; 1 if a benchmark crashed or an answer was wrong.
"""

from __future__ import annotations

import sys
import time
import traceback
from collections.abc import Callable
from functools import partial

from bench import fleet, http, replay, store, ticks
from bench.report import Document, Row, parser, tally, words

_NAMES = ("ticks", "fleet", "store", "replay", "http")


def main() -> int:
    made = parser(__doc__)
    made.prog = "python -m bench"
    made.add_argument("--only", metavar="NAMES", help=f"some of {','.join(_NAMES)}")
    ticks.add_options(made)
    options = made.parse_args()
    chosen = options.only.split(",") if options.only else list(_NAMES)
    if not set(chosen) <= set(_NAMES):
        made.error(f"--only takes some of {','.join(_NAMES)}")

    benchmarks: dict[str, Callable[[], Document]] = {
        "ticks": partial(ticks.run, options.full, options.pgledger),
        "fleet": partial(fleet.run, options.full),
        "store": partial(store.run, options.full),
        "replay": partial(replay.run, options.full),
        "http": partial(http.run, options.full),
    }
    rows: list[Row] = []
    crashed = []
    for name in chosen:
        begun = time.monotonic()
        _say(f"{name} ...")
        try:
            document = benchmarks[name]()
        except Exception:
            traceback.print_exc()
            crashed.append(name)
            continue
        rows += document["rows"]
        changed = "; the SQL changed meanwhile" * document["sql_changed_meanwhile"]
        _say(f"{name}: {time.monotonic() - begun:.0f} s{changed}")

    print(words(rows), tally(rows), sep="\n\n")
    if not options.full:
        print("The targets are meant for --full; a quick run's sizes are smaller and its turns few.")
    wrong = [f"{one['against']} on {one['workload']}" for one in rows if one.get("wrong_answer")]
    if crashed:
        print(f"crashed: {', '.join(crashed)}")
    if wrong:
        print(f"wrong answers: {', '.join(dict.fromkeys(wrong))}")
    return 1 if crashed or wrong else 0


def _say(words: str) -> None:
    print(words, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
