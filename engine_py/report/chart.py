"""One chart as inline SVG: paths that stretch with the page, and labels that do not.

The plot's viewBox is stretched to the width there is (preserveAspectRatio none, strokes that do not scale); labels
stand in SVGs beside it whose x is in percent, so that text keeps its size on a phone and on paper. Positions are
attributes, since the page's policy allows no inline style.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from html import escape
from itertools import pairwise
from typing import Any

from engine_py.report import axis

WIDTH = 2000  # of every viewBox


@dataclass(frozen=True)
class Series:
    """`ys` draw it, `texts` say it, in plain digits (of shares, in percent); both are parallel to the chart's times.

    kind: line, step, area (to 0), band (of a stacked chart), dot, square, hole.
    """

    name: str
    color: str
    ys: Sequence[float | None]
    texts: Sequence[str | None]
    kind: str = "line"
    legend: str | None = None  # what the legend says besides the name


@dataclass(frozen=True)
class Chart:
    """`desc` says in words what is to be seen. stacked: the series' ys lie upon each other, drawn as areas."""

    key: str
    title: str
    desc: str
    times: Sequence[datetime]
    series: Sequence[Series]
    height: int = 280
    daily: bool = True
    share: bool = False
    stacked: bool = False
    zero: bool = False
    ticks: int = 8  # of times, at most
    gutter: int = 0  # room left of the plot, at least: charts of the same times stand under each other
    note: str | None = None
    span: tuple[float, float] | None = None
    notes: dict[int, str] = field(default_factory=dict)  # what a tooltip adds at a time

    def html(self) -> str:
        return _Drawing(self).html()

    @property
    def room(self) -> int:
        """What the labels on the left take."""
        return _Drawing(self).gutter

    def data(self) -> dict[str, Any]:
        """What tooltips say, small: places and times as differences, "=" for the same again, nothing for none."""
        drawing = _Drawing(self)
        unit = 86400 if self.daily else 60
        return {
            "x": _differences([drawing.x(t) for t in self.times]),
            "t": _differences([int(t.timestamp()) // unit for t in self.times]),
            "u": unit,
            "h": self.height,
            "lo": drawing.low,
            "hi": drawing.high,
            "stacked": self.stacked,
            "share": self.share,
            "s": [{"n": s.name, "c": s.color, "v": _repeated(s.texts)} for s in self.series],
            "m": {str(place): text for place, text in self.notes.items()},
        }


def _differences(values: Sequence[int]) -> str:
    return " ".join(str(b - a) for a, b in pairwise([0, *values]))


def _repeated(texts: Sequence[str | None]) -> str:
    return " ".join("=" if n and text == texts[n - 1] else text or "" for n, text in enumerate(texts))


class _Drawing:
    def __init__(self, chart: Chart) -> None:
        self.chart = chart
        self.heights = _stack(chart.series) if chart.stacked else [s.ys for s in chart.series]
        every = [y for ys in self.heights for y in ys]
        self.low, self.high = chart.span or axis.domain(every, zero=chart.zero)
        self.first = chart.times[0].timestamp()
        self.length = max(chart.times[-1].timestamp() - self.first, 1e-9)
        self.is_moment = chart.times[0] == chart.times[-1]
        self.ticks = axis.number_ticks(self.low, self.high, max(2, chart.height // 42), share=chart.share)
        self.gutter = max(chart.gutter, 10 + 7 * max(map(len, (t.label for t in self.ticks)), default=1))

    def x(self, time: datetime) -> int:
        return self.x_of(time.timestamp())

    def x_of(self, seconds: float) -> int:
        return WIDTH // 2 if self.is_moment else round((seconds - self.first) / self.length * WIDTH)

    def y(self, value: float) -> float:
        at = self.chart.height * (self.high - value) / (self.high - self.low)
        return float(f"{min(max(at, 0.0), float(self.chart.height)):.1f}")

    def html(self) -> str:
        c, key = self.chart, escape(self.chart.key)
        ticks, gutter = self.ticks, self.gutter
        return (
            f'<figure class="chart" id="{key}"><figcaption><h3>{escape(c.title)}</h3>{_legend(c.series)}</figcaption>'
            f'<div class="frame"><svg class="y" width="{gutter}" height="{c.height}" aria-hidden="true">'
            + "".join(f'<text x="{gutter - 8}" y="{self.y(t.at) + 4:g}">{t.label}</text>' for t in ticks)
            + f'</svg><div class="plot" data-chart="{key}" tabindex="0" role="group" '
            f'aria-label="{escape(c.title)}: arrow keys read it point by point">'
            f'<svg class="marks" role="img" aria-labelledby="{key}-t {key}-d" viewBox="0 0 {WIDTH} {c.height}" '
            f'preserveAspectRatio="none" width="100%" height="{c.height}">'
            f'<title id="{key}-t">{escape(c.title)}</title><desc id="{key}-d">{escape(c.desc)}</desc>'
            + self._grid(ticks)
            + "".join(self._marks())
            + "</svg></div>"
            + self._times()
            + "</div>"
            + (f'<p class="note">{escape(c.note)}</p>' if c.note else "")
            + "</figure>"
        )

    def _grid(self, ticks: Iterable[axis.Tick]) -> str:
        lines = "".join(f"M0 {self.y(t.at):g}H{WIDTH}" for t in ticks if t.at)
        base = f'<path class="base" d="M0 {self.y(0):g}H{WIDTH}"/>' if self.low <= 0 <= self.high else ""
        return (f'<path class="grid" d="{lines}"/>' if lines else "") + base

    def _times(self) -> str:
        ticks = axis.time_ticks(self.chart.times[0], self.chart.times[-1], self.chart.ticks)
        places = [100 * self.x_of(t.at) / WIDTH for t in ticks]
        step = 1 if len(ticks) <= 4 else 2 if len(ticks) <= 8 else 3
        parts = []
        for n, (tick, place) in enumerate(zip(ticks, places, strict=True)):
            anchor = ' class="first' if place < 4 else ' class="last' if place > 96 else ' class="'
            parts.append(f'<text{anchor}{" wide" if n % step else ""}" x="{place:.2f}%" y="17">{tick.label}</text>')
        return f'<svg class="x" width="100%" height="22" aria-hidden="true">{"".join(parts)}</svg>'

    def _marks(self) -> Iterable[str]:
        below: list[float] | None = None
        for series, ys in zip(self.chart.series, self.heights, strict=True):
            if self.chart.stacked:
                tops = [y or 0.0 for y in ys]
                yield self._band(series, below or [0.0] * len(tops), tops)
                below = tops
            elif series.kind == "area":
                yield f'<path class="area {series.color}" d="{self._areas(ys)}"/>'
                yield f'<path class="line {series.color}" d="{self._line(ys)}"/>'
            elif series.kind in ("dot", "square", "hole"):
                many = " many" if sum(y is not None for y in ys) > 60 else ""
                points = "".join(
                    f"M{self.x(t)} {self.y(y):g}h0" for t, y in zip(self.chart.times, ys, strict=True) if y is not None
                )
                if points:
                    yield f'<path class="{series.kind} {series.color}{many}" d="{points}"/>'
                if points and series.kind == "hole":
                    yield f'<path class="hollow{many}" d="{points}"/>'
            elif series.kind != "none":
                kind = "dot" if sum(y is not None for y in ys) == 1 else f"line {series.kind}"
                yield f'<path class="{kind} {series.color}" d="{self._line(ys, step=series.kind == "step")}"/>'

    def _line(self, ys: Sequence[float | None], *, step: bool = False) -> str:
        parts: list[str] = []
        before: float | None = None
        last = len(ys) - 1
        for n, (time, value) in enumerate(zip(self.chart.times, ys, strict=True)):
            if value is None:
                before = None
                continue
            x, y = self.x(time), self.y(value)
            if before is None:
                parts.append(f"M{x} {y:g}h0")
            elif step:
                if y != before:
                    parts.append(f"H{x}V{y:g}")
                elif n == last or ys[n + 1] is None:
                    parts.append(f"H{x}")
            else:
                parts.append(f"L{x} {y:g}")
            before = y
        return "".join(parts)

    def _areas(self, ys: Sequence[float | None]) -> str:
        """Between each run of values and 0."""
        base = self.y(min(max(0.0, self.low), self.high))
        parts: list[str] = []
        points: list[tuple[int, float]] = []
        for time, value in [*zip(self.chart.times, ys, strict=True), (None, None)]:
            if time is not None and value is not None:
                points.append((self.x(time), self.y(value)))
            elif points:
                line = "".join(f"L{x} {y:g}" for x, y in points)
                parts.append(f"M{points[0][0]} {base:g}{line}L{points[-1][0]} {base:g}Z")
                points = []
        return "".join(parts)

    def _band(self, series: Series, below: Sequence[float], tops: Sequence[float]) -> str:
        xs = [self.x(t) for t in self.chart.times]
        if len(set(xs)) == 1:
            xs, below, tops = [0, WIDTH], [below[0]] * 2, [tops[0]] * 2
        upper = "L".join(f"{x} {self.y(y):g}" for x, y in zip(xs, tops, strict=True))
        lower = "L".join(f"{x} {self.y(y):g}" for x, y in zip(reversed(xs), reversed(below), strict=True))
        return f'<path class="band {series.color}" d="M{upper}L{lower}Z"/>'


def _stack(series: Sequence[Series]) -> list[list[float | None]]:
    sums = [0.0] * (len(series[0].ys) if series else 0)
    found: list[list[float | None]] = []
    for one in series:
        sums = [total + (y or 0.0) for total, y in zip(sums, one.ys, strict=True)]
        found.append(list(sums))
    return found


def _legend(series: Sequence[Series]) -> str:
    items = "".join(
        f'<li><i class="swatch {s.color} {s.kind}"></i>{escape(s.name)}'
        + (f" <b>{escape(s.legend)}</b>" if s.legend else "")
        + "</li>"
        for s in series
    )
    return f'<ul class="legend">{items}</ul>'
