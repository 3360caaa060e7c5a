"""Counters in Prometheus' text format. Labels are templates of routes, never keys or ids."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable

MEDIA_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class Metrics:
    """`gauges`: more figures, asked for when they are shown."""

    def __init__(self) -> None:
        self.in_flight = 0
        self.gauges: dict[str, tuple[str, Callable[[], float]]] = {}
        self._requests: Counter[tuple[str, str, int]] = Counter()
        self._buckets: Counter[tuple[str, str, int]] = Counter()
        self._seconds: dict[tuple[str, str], float] = {}

    def count(self, route: str, method: str, status: int, seconds: float) -> None:
        self._requests[route, method, status] += 1
        self._buckets[route, method, bisect_left(_BOUNDS, seconds)] += 1
        self._seconds[route, method] = self._seconds.get((route, method), 0.0) + seconds

    def text(self) -> str:
        lines = [
            "# HELP papertick_requests_total Requests answered.",
            "# TYPE papertick_requests_total counter",
        ]
        for (route, method, status), count in sorted(self._requests.items()):
            lines.append(f'papertick_requests_total{{route="{route}",method="{method}",status="{status}"}} {count}')
        name = "papertick_request_seconds"
        lines += [f"# HELP {name} Time until the answer was there.", f"# TYPE {name} histogram"]
        for route, method in sorted(self._seconds):
            labels, total = f'route="{route}",method="{method}"', 0
            for n, bound in enumerate((*map(str, _BOUNDS), "+Inf")):
                total += self._buckets[route, method, n]
                lines.append(f'{name}_bucket{{{labels},le="{bound}"}} {total}')
            lines.append(f"{name}_sum{{{labels}}} {self._seconds[route, method]:.6f}")
            lines.append(f"{name}_count{{{labels}}} {total}")
        own = {"papertick_requests_in_flight": ("Requests being answered.", self._in_flight)}
        for gauge, (about, read) in (own | self.gauges).items():
            lines += [f"# HELP {gauge} {about}", f"# TYPE {gauge} gauge", f"{gauge} {read():g}"]
        return "\n".join(lines) + "\n"

    def _in_flight(self) -> float:
        return self.in_flight
