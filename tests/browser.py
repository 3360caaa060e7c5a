"""A headless browser for tests: playwright, driving a Chromium that is there."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

FLAGS = [
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync", "--font-render-hinting=none", "--force-color-profile=srgb"),
]


class NoBrowserError(Exception):
    """Why there is none."""


def executable() -> str | None:
    """CHROMIUM, or the system's; None: playwright's own, if it has one."""
    given = os.environ.get("CHROMIUM")
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    return given or next(filter(None, map(shutil.which, names)), None)


@contextmanager
def chromium() -> Iterator[Any]:
    """A playwright Browser. Raises NoBrowserError."""
    try:
        from playwright.sync_api import Error, sync_playwright
    except ImportError:
        raise NoBrowserError("playwright is not installed: pip install 'papertick[browser]'") from None
    with sync_playwright() as playwright:
        try:
            browser = playwright.chromium.launch(executable_path=executable(), args=FLAGS)
        except Error as exc:
            reason = str(exc).strip().splitlines()[0]
            raise NoBrowserError(
                f"no Chromium: apt-get install chromium, or playwright install chromium ({reason})"
            ) from None
        try:
            yield browser
        finally:
            browser.close()


def url_of(path: Path) -> str:
    return path.resolve().as_uri()
