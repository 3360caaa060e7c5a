"""README_test.md maps every case of the test plan to its tests; here both sides are held to it."""

from __future__ import annotations

import ast
import re
from pathlib import Path

TESTS = Path(__file__).resolve().parent
README = TESTS.parent / "README_test.md"

_NUMBERS = {
    "RL": range(1, 10),
    "OR": (*range(1, 7), 10, 11, 12),
    "MT": range(1, 5),
    "IR": range(1, 4),
    "RK": range(1, 4),
    "LG": range(1, 3),
    "MU": range(1, 3),
    "DR": range(1, 2),
    "CC": range(1, 3),
    "FI": range(1, 2),
}
PLAN = [f"{category}-{n:02}" for category, numbers in _NUMBERS.items() for n in numbers]
_NAMED_AFTER = re.compile(rf"test_({'|'.join(_NUMBERS)})_(\d\d)_".lower())


def named_tests() -> dict[str, set[str]]:
    """The test functions of the whole suite whose names start with a case's ID."""
    found: dict[str, set[str]] = {}
    for path in TESTS.glob("test_*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef) and (match := _NAMED_AFTER.match(node.name)):
                found.setdefault(f"{match[1].upper()}-{match[2]}", set()).add(node.name)
    return found


def table() -> dict[str, tuple[set[str], str]]:
    """Each row of the map: ID → its tests, what they guarantee."""
    rows = re.findall(r"^\| ([A-Z]{2}-\d\d) \| (.+?) \| (.+?) \|$", README.read_text(encoding="utf-8"), re.MULTILINE)
    assert len({row[0] for row in rows}) == len(rows), "an ID stands there twice"
    return {row[0]: (set(re.findall(r"`(\w+)`", row[2])), row[1]) for row in rows}


def test_map_has_every_case_of_the_plan_in_its_order():
    assert list(table()) == PLAN


def test_every_test_in_the_map_exists_and_every_test_of_a_case_is_in_the_map():
    mapped = {case: tests for case, (tests, _) in table().items()}
    assert mapped == named_tests()


def test_every_case_says_what_it_guarantees():
    assert [case for case, (tests, promise) in table().items() if not tests or len(promise) < 20] == []
