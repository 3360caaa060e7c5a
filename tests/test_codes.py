"""docs/codes.md has every word that the SQL answers with, and no other."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import psycopg

from engine_py.cli_order import OPEN_STATUSES, ORDER_STATUSES
from engine_py.install import sql_dir

DOCS = Path(__file__).parent.parent / "docs"
# Quoted capitals that no caller sees.
INTERNAL = {"UPDATE", "REB", "MEMBER", "FLOW"}


def source(first: str, last: str = "99") -> str:
    """The SQL of these files, without remarks and comments."""
    files = [path for path in sorted(sql_dir().glob("[0-9]*.sql")) if first <= path.name[:2] <= last]
    text = "\n".join(re.sub(r"--.*", "", path.read_text(encoding="utf-8")) for path in files)
    return re.sub(r"^comment on .*$", "", text, flags=re.M)


def body(name: str) -> str:
    """One function's source."""
    found = re.search(rf"^create function engine\.{name}\(.*?(?=^create |\Z)", source("20"), re.M | re.S)
    assert found, name
    return found[0]


def words(text: str) -> set[str]:
    return set(re.findall(r"'([A-Z][A-Z_]{2,})'", text))


def answers(text: str) -> set[str]:
    """The words that an expression comes to."""
    return set(re.findall(r"\b(?:then|else|return) '([A-Z_]+)'", text))


def documented(section: str | None = None, table: int | None = None) -> set[str]:
    """The words in the first columns of codes.md, or of one section, or of one of its tables."""
    text = (DOCS / "codes.md").read_text(encoding="utf-8")
    if section:
        (text,) = re.findall(rf"^## {section}\n(.*?)(?=^## |\Z)", text, re.M | re.S)
    parts = re.split(r"^\|---.*$", text, flags=re.M)[1:]
    chosen = parts if table is None else [parts[table]]
    return {word for part in chosen for word in re.findall(r"^\| `(\w+)` \|", part, re.M)}


def test_refusals(tx: psycopg.Connection[Any]) -> None:
    assert documented("Refusals") == {row[0] for row in tx.execute("select code from engine.refusal_codes()")}


def test_orders() -> None:
    assert documented("Order statuses") == set(ORDER_STATUSES)
    opening = re.search(r"## Order statuses\n\n(.*)are open", (DOCS / "codes.md").read_text())
    assert opening
    assert set(re.findall(r"`(\w+)`", opening[1])) == set(OPEN_STATUSES)


def test_reject_reasons() -> None:
    found = answers(body("acceptance_reason")) | answers(body("reject_reason")) | answers(body("margin_reason"))
    found |= set(re.findall(r"reject_reason := '(\w+)'", source("20")))
    assert documented("Reject reasons") == found


def test_event_types() -> None:
    found = answers(body("sip_skip")) | answers(body("sip_outcome"))
    code = source("20")
    found |= set(re.findall(r"event_type := '(\w+)'", code))
    found |= set(re.findall(r"p_time, '(\w+)', engine\.action_key", code))
    found |= set(re.findall(r"slot_end\(p_time, '(\w+)'", code))
    for choice in re.findall(r"event_type := case .*?;", code):
        found |= answers(choice)
    assert documented("Event types") == found


def test_explanations() -> None:
    by = answers(body("cancel_cause")) | answers(body("ending_bar"))
    assert documented("Explanations", 1) == by | {"USER"}
    code = source("88", "88")
    found = set(re.findall(r"because\([^,]+, \d, '(\w+)'", code)) | set(re.findall(r", \d, '(\w+)',", code))
    found |= answers(body("explain_bars")) | answers(body("explain_deeds"))
    assert documented("Explanations", 0) == found


def test_plans_to_come() -> None:
    assert documented("Plans to come", 0) == answers(body("slot_state"))
    assert documented("Plans to come", 1) == answers(re.findall(r"waits_for := .*;", body("preview_sip"))[0])


def test_no_word_stands_on_one_side_only() -> None:
    """What the code says beyond the terms that callers give (CHECKs, defaults, schedules) is on one of the pages."""
    code = source("20").replace(body("minor_unit"), "")
    terms = words(source("10", "19"))
    numbers = set(re.findall(r"\b[A-Z]+(?:_[A-Z]+)+\b", (DOCS / "numbers.md").read_text()))
    known = documented() | numbers | {"QUANTITY_TOO_LARGE"}
    assert words(code) - terms - INTERNAL - known == set()
    codes = {word for word in documented() if not re.search(r"\d", word)}
    assert codes - words(code) - terms == set()
