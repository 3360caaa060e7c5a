"""What a load says of itself, in words and as JSON."""

from __future__ import annotations

from dataclasses import asdict

import click

from engine_py.cli_base import emit, show_progress
from engine_py.render import counted, text
from engine_py.staging import LoadReport, problem_line


def show_progress_of(rows: int) -> None:
    click.echo(f"\r{counted(rows, 'row')} read", nl=False, err=True)


def show_report(report: LoadReport, *, listed: bool = True, stands: bool = True, hint: str | None = None) -> None:
    """`listed`: the bad lines have not been named yet. `stands`: they do not keep the others out."""
    if listed and show_progress():
        click.echo("\r", nl=False, err=True)
    words = _first_line(report, stands=stands)
    words += "".join(f"\n  {line}" for line in _plan(report))
    words += "".join(f"\n  warning: {warning}" for warning in _warnings(report))
    if listed:
        words += "".join(f"\n  {problem_line(p)}" for p in report.skipped)
        hidden = report.skipped_count - len(report.skipped)
        words += f"\n  ... and {hidden} more" if hidden > 0 else ""
    words += f"\n  {hint}" if hint else ""
    document = asdict(report) | {
        "hint": hint,
        "skipped": [problem._asdict() for problem in report.skipped],
        "factors": report.factors and list(map(text, report.factors)),
    }
    emit(document, words)


def _first_line(report: LoadReport, *, stands: bool) -> str:
    done = "would be stored" if report.dry_run else "stored"
    words = f"{report.target}: {counted(report.rows, 'row')} {done}, {report.unchanged} unchanged"
    if not stands:
        words = f"{report.target}: nothing would be stored, for {counted(report.skipped_count, 'bad line')}"
        if not report.read:
            return words
        words += f"; with --skip-bad {counted(report.rows, 'row')}, {report.unchanged} unchanged"
    words += f", {report.merged} added to another" if report.merged else ""
    words += f", {report.skipped_count} skipped"
    words += f" ({report.changed} different from what is stored)" if report.changed else ""
    if report.first:
        words += f"; {text(report.first)} to {text(report.last)}"
    return words


def _plan(report: LoadReport) -> list[str]:
    lines = []
    if report.format and (report.format != "generic" or report.dry_run):
        files = f"{counted(report.files, 'file')} " if report.files > 1 else ""
        lines.append(f"{files}read as {report.format}")
    if report.dry_run and report.mapping:
        lines.append("columns: " + ", ".join(f"{ours} = {theirs}" for ours, theirs in report.mapping.items()))
    if report.first_symbols and (report.rows or report.dry_run):
        more = report.symbols - len(report.first_symbols)
        names = ", ".join(map(text, report.first_symbols)) + f" and {more:,} more" * bool(more)
        lines.append(f"{counted(report.symbols, 'symbol')}: {names}")
    if report.left_out:
        lines.append("left out: " + ", ".join(f"{count} {reason}" for reason, count in report.left_out.items()))
    if report.gaps:
        lines.append(f"gaps: {counted(report.gaps, 'session')} without a bar between a symbol's first and last")
    if report.factors:
        least, most = map(text, report.factors)
        lines.append(f"adjusted close : close is {least}" + (f" to {most}" if most != least else ""))
    return lines


def _warnings(report: LoadReport) -> list[str]:
    warnings = list(report.warnings)
    if report.outside_sessions:
        lie = "lies" if report.outside_sessions == 1 else "lie"
        bars = counted(report.outside_sessions, "bar")
        warnings.append(f"{bars} {lie} outside every session: nothing fills there")
    if report.runs_past:
        warnings.append(f"{counted(report.runs_past, 'RUNNING run')} past one of these dates will not see it")
    return warnings
