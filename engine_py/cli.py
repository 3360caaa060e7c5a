"""The command line `papertick`: thin, because every rule is the engine's. See `papertick --help`.

Exit codes: 0 done, 1 refused or violated, 2 usage, 3 the server cannot be reached.
"""

from __future__ import annotations

import click

from engine_py import (
    __version__,
    bench,
    cli_api,
    cli_archive,
    cli_backup,
    cli_calendar,
    cli_capsule,
    cli_data,
    cli_db,
    cli_feed,
    cli_ledger,
    cli_order,
    cli_plan,
    cli_report,
    cli_run,
    cli_stats,
    cli_sweep,
    cli_tick,
    cli_worker,
)
from engine_py.cli_base import Root


@click.group(cls=Root, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="papertick", help="Print the version.")
def main() -> None:
    """Paper trading inside PostgreSQL.

    Without --dsn and DB_DSN an embedded PostgreSQL starts by itself. Try: papertick demo

    Exit codes: 0 done, 1 refused or violated, 2 usage, 3 the server cannot be reached.
    """


for _ledger in cli_ledger.LEDGERS:
    cli_run.run.add_command(_ledger)
cli_run.run.add_command(cli_archive.run_archive)
for _part in (cli_backup.db_backup, cli_backup.db_restore):
    cli_db.db.add_command(_part)
for _command in (
    cli_tick.demo,
    cli_db.db,
    cli_run.user,
    cli_feed.feed,
    cli_calendar.calendar,
    cli_data.instrument,
    cli_run.run,
    cli_order.order,
    cli_plan.sip,
    cli_plan.rebalance,
    cli_tick.tick,
    cli_tick.replay,
    cli_tick.tick_all,
    cli_worker.worker,
    cli_sweep.sweep,
    cli_sweep.leaderboard,
    cli_tick.check,
    cli_tick.digest,
    cli_report.report,
    cli_stats.stats,
    cli_capsule.export,
    cli_capsule.import_,
    cli_api.key,
    cli_api.serve,
    bench.bench,
):
    main.add_command(_command)

if __name__ == "__main__":
    main()
