"""A report's page for tests: made from a run, and read again as a browser would."""

from __future__ import annotations

import json
from decimal import Decimal
from functools import partial
from html.parser import HTMLParser
from typing import Any

from desk import Conn
from psycopg.types.json import set_json_loads

from engine_py.report import gather, page
from engine_py.report.gather import Report
from engine_py.runref import RunKey

VOID = {"meta", "link", "br", "path"}


def report(conn: Conn, key: tuple[int, int], *others: tuple[int, int], benchmark: str | None = None) -> Report:
    set_json_loads(partial(json.loads, parse_float=Decimal), conn)
    return gather.read(gather.gather(conn, RunKey(*key), [RunKey(*other) for other in others], benchmark))


def make_page(conn: Conn, key: tuple[int, int], *others: tuple[int, int], benchmark: str | None = None) -> str:
    return page.html(report(conn, key, *others, benchmark=benchmark))


class Page(HTMLParser):
    """Elements in order, tables as rows of (text, title), and what stands in style and script. Tags must nest."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.source = text
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.tables: dict[str, list[list[tuple[str, str | None]]]] = {}
        self.raw: dict[str, list[str]] = {"style": [], "script": []}
        self.tiles: dict[str, tuple[str, str | None]] = {}
        self._open: list[str] = []
        self._label = ""
        self._cell: list[str] | None = None
        self._title: str | None = None
        self._tile = ""
        self.feed(text)
        self.close()
        assert self._open == [], self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.tags.append((tag, given))
        if tag not in VOID:
            self._open.append(tag)
        if given.get("role") == "region":
            self._label = given["aria-label"] or ""
            self.tables[self._label] = []
        elif tag == "tr":
            self.tables[self._label].append([])
        elif tag in ("th", "td") or (tag == "b" and "li" in self._open):
            self._cell, self._title = [], given.get("title")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open, tag
        assert self._open.pop() == tag
        if self._cell is None:
            return
        text = "".join(self._cell)
        if tag in ("th", "td"):
            self.tables[self._label][-1].append((text, self._title))
            self._cell = None
        elif tag == "b":
            if self._tile:
                self.tiles[self._tile] = (text, self._title)
            self._cell, self._tile = None, ""

    def handle_data(self, data: str) -> None:
        inside = self._open[-1] if self._open else ""
        if inside in self.raw:
            self.raw[inside].append(data)
            return
        self.words.append(data)
        if self._cell is not None:
            self._cell.append(data)
        elif inside == "span" and "li" in self._open:
            self._tile = data

    @property
    def text(self) -> str:
        return " ".join(self.words)

    @property
    def data(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.raw["script"][0])
        return found

    def count(self, tag: str) -> int:
        return sum(t == tag for t, _ in self.tags)

    def points(self, chart: str) -> tuple[list[int], dict[str, list[str]]]:
        """x of each point, and each series' texts, as the page's script reads them."""
        d = self.data[chart]
        xs, total = [], 0
        for part in d["x"].split(" "):
            total += int(part)
            xs.append(total)
        series = {}
        for s in d["s"]:
            texts: list[str] = []
            for part in s["v"].split(" "):
                texts.append(texts[-1] if part == "=" else part)
            series[s["n"]] = texts
        return xs, series
