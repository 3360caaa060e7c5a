"""Freeze the SQL of the release that is being made: tests/releases/<version>.sql.gz. Run once per release.

python scripts/freeze_release.py           # refuses to change a release that is frozen
"""

from __future__ import annotations

import gzip
import sys
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(PROJECT))

from engine_py import __version__, install  # noqa: E402


def frozen(folder: Path) -> bytes:
    """All SQL of a folder as one script, an atomic install; the same bytes on every machine."""
    parts = [path.read_text(encoding="utf-8") for path in sorted(folder.glob("[0-9][0-9]_*.sql"))]
    return gzip.compress("".join(parts).encode(), compresslevel=9, mtime=0)


def main() -> int:
    target = PROJECT / "tests" / "releases" / f"{__version__}.sql.gz"
    data = frozen(install.sql_dir())
    if target.exists():
        if gzip.decompress(target.read_bytes()) == gzip.decompress(data):
            print(f"{target.name} is frozen already, and the same")
            return 0
        print(f"{target.name} is frozen, and the SQL has changed since: raise __version__ first", file=sys.stderr)
        return 1
    target.parent.mkdir(exist_ok=True)
    target.write_bytes(data)
    print(f"{target}: {len(data):,} bytes, schema version {install.newest_version()}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
