"""Compute outside, COPY inside: what one writes who wants the rows on disk without an engine in the database.

A plain Python loop, its rows then copied in one durable transaction a run. wall_s = compute + COPY + commit.
--tables own   tables of its own: keys, composite foreign keys, floats, a mark per bar and symbol
--tables same  papertick's very tables (columns, checks, keys, foreign keys; no triggers) and the very rows papertick
               writes, in exact decimals
--dsn names a database with papertick. This one runs in papertick's own environment, from the repository's root.
"""

import time

import psycopg
from common import CASH, QUARTERS, Clock, Monthly, arguments, read_csv, sip_terms

from bench.engine import LEDGERS
from bench.workloads import Account, compute

OWN_DDL = """
create table strategy_run (user_id bigint, run_id bigint, status text not null, primary key (user_id, run_id));
create table paper_order (order_id bigint primary key, user_id bigint not null, run_id bigint not null,
  logical_time timestamptz not null, symbol int not null, side text not null, kind text not null,
  quantity numeric not null, limit_price numeric, status text not null, filled_at timestamptz,
  foreign key (user_id, run_id) references strategy_run);
create index on paper_order (user_id, run_id, logical_time);
create table paper_trade (trade_id bigint primary key, order_id bigint not null references paper_order,
  user_id bigint not null, run_id bigint not null, logical_time timestamptz not null, symbol int not null,
  side text not null, quantity numeric not null, price numeric not null,
  foreign key (user_id, run_id) references strategy_run);
create index on paper_trade (user_id, run_id, logical_time);
create table mtm_ledger (user_id bigint, run_id bigint, logical_time timestamptz, symbol int,
  quantity numeric not null, price numeric not null, market_value numeric not null,
  primary key (user_id, run_id, logical_time, symbol), foreign key (user_id, run_id) references strategy_run);
create table equity (user_id bigint, run_id bigint, logical_time timestamptz, cash numeric not null,
  equity numeric not null, primary key (user_id, run_id, logical_time),
  foreign key (user_id, run_id) references strategy_run);
insert into strategy_run select u, 1, 'RUNNING' from generate_series(0, 999) u;
"""
SAME_RUNS = """
insert into strategy_run (user_id, run_id, status) select u, 1, 'RUNNING' from generate_series(0, 999) u
"""


WARM_UP = (998, 999)  # users who are not timed


class Books:
    """One run's rows for the tables of its own."""

    last_order = 0

    def __init__(self, user, cash):
        self.user, self.cash, self.held = user, cash, {}
        self.orders, self.trades, self.marks, self.equity = [], [], [], []

    def place(self, date, symbol, side, kind, quantity, limit=None):
        Books.last_order += 1
        order = [Books.last_order, self.user, 1, date, symbol, side, kind, quantity, limit, "PENDING", None]
        self.orders.append(order)
        return order

    def fill(self, order, date, price):
        order[9], order[10] = "FILLED", date
        number, _, _, _, symbol, side, _, quantity, *_ = order
        signed = quantity if side == "BUY" else -quantity
        self.cash -= signed * price
        self.held[symbol] = self.held.get(symbol, 0) + signed
        self.trades.append((number, number, self.user, 1, date, symbol, side, quantity, price))

    def market(self, date, symbol, quantity, price):
        if quantity:
            side = "BUY" if quantity > 0 else "SELL"
            self.fill(self.place(date, symbol, side, "MARKET", abs(quantity)), date, price)

    def mark(self, date, closes):
        value = 0.0
        for symbol, close in enumerate(closes):
            held = self.held.get(symbol, 0)
            self.marks.append((self.user, 1, date, symbol, held, close, round(held * close, 6)))
            value += held * close
        self.equity.append((self.user, 1, date, round(self.cash, 6), round(self.cash + value, 6)))

    def tables(self):
        names = ("paper_order", "paper_trade", "mtm_ledger", "equity")
        return dict(zip(names, (self.orders, self.trades, self.marks, self.equity), strict=True))


def sip(rows, user):
    amount, day = sip_terms(user)
    books, monthly = Books(user, float(CASH["W1"])), Monthly(day)
    for date, (_, _, _, close, _) in rows:
        if monthly.due(date):
            books.market(date, 0, int(amount // close), close)
        books.mark(date, (close,))
    return books


def portfolio(rows, user):
    books, monthly, quarterly = Books(user, float(CASH["W2"])), Monthly(1), Monthly(15, QUARTERS)
    for date, closes in rows:
        if monthly.due(date):
            for i, close in enumerate(closes):
                books.market(date, i, int(500 // close), close)
        elif quarterly.due(date):
            share = sum(books.held.get(i, 0) * close for i, close in enumerate(closes)) / len(closes)
            for i, close in enumerate(closes):
                books.market(date, i, int(share // close) - books.held.get(i, 0), close)
        books.mark(date, closes)
    return books


def limits(rows, user):
    books, resting = Books(user, float(CASH["W4"])), []
    for t, (date, (open_, high, low, close, _)) in enumerate(rows):
        kept = []
        for order in resting:
            price = order[8]
            if order[5] == "BUY" and low <= price:
                books.fill(order, date, min(open_, price))
            elif order[5] == "SELL" and high >= price:
                books.fill(order, date, max(open_, price))
            else:
                kept.append(order)
        if t == 0:
            books.market(date, 0, 1000, close)
        side, factor = ("BUY", 0.99) if t % 2 == 0 else ("SELL", 1.01)
        resting = [*kept, books.place(date, 0, side, "LIMIT", 1, round(close * factor, 2))]
        books.mark(date, (close,))
    return books


def make_tables(conn, tables):
    schema = f"peer_{tables}"
    conn.execute(f"drop schema if exists {schema} cascade; create schema {schema}")
    conn.execute(f"set search_path = {schema}, public")
    if tables == "own":
        conn.execute(OWN_DDL)
        return
    for table in ("strategy_run", *LEDGERS):
        conn.execute(f"create table {schema}.{table} (like public.{table} including all)")
    # as the catalog prints them they name no schema, so here they mean the copies
    conn.execute("set search_path = public")
    foreign_keys = conn.execute(
        "select conrelid::regclass::text, pg_get_constraintdef(oid) from pg_constraint"
        " where contype = 'f' and conrelid = any(%s::regclass[]::oid[])",
        [list(LEDGERS)],
    ).fetchall()
    conn.execute(f"set search_path = {schema}, public")
    for table, definition in foreign_keys:
        conn.execute(f"alter table {schema}.{table} add {definition}")
    conn.execute(SAME_RUNS)


def store(conn, tables):
    """Table: (columns, rows); parents first."""
    with conn.transaction(), conn.cursor() as cursor:
        for table, (columns, rows) in tables.items():
            with cursor.copy(f"copy {table} {columns} from stdin") as copy:
                copy.write("".join(["\t".join(["\\N" if v is None else str(v) for v in row]) + "\n" for row in rows]))


def compute_own(args, rows, user):
    runs = {"W2": lambda: portfolio(rows, user), "W4": lambda: limits(rows, user)}
    books = runs.get(args.workload, lambda: sip(rows, user))()
    return {table: ("", made) for table, made in books.tables().items()}, books.equity[-1][4], len(books.trades)


def compute_same(args, user):
    books, key = compute(args.workload, user if args.workload == "W3" else 0), (user, 1)
    tables = {
        table: (f"(user_id, run_id, {Account.COLUMNS[table]})", [(*key, *row) for row in made])
        for table, made in books.rows().items()
    }
    return tables, books.equity[-1][3], len(books.trades)


def main():
    args = arguments(dsn={"required": True}, tables={"default": "own", "choices": ["own", "same"]})
    columns, rows = read_csv(args)

    def books_of(user):
        return compute_own(args, rows, user) if args.tables == "own" else compute_same(args, user)

    with psycopg.connect(args.dsn, autocommit=True) as conn:
        make_tables(conn, args.tables)
        # Tables that hold a run and have been analyzed: on empty ones PostgreSQL plans the foreign keys' checks by an
        # index that reads every row of the run. A new session, so that it plans them anew, and has warmed up.
        store(conn, books_of(WARM_UP[0])[0])
        conn.execute("vacuum analyze")
    with psycopg.connect(args.dsn, autocommit=True) as conn:
        conn.execute(f"set search_path = peer_{args.tables}, public")
        if args.workload != "W2":  # which is long enough not to notice
            store(conn, books_of(WARM_UP[1])[0])
        clock, computing, equity, fills, written = Clock(), 0.0, 0, 0, 0
        for user in range(args.users):
            begun = time.perf_counter()
            tables, last, made = books_of(user)
            computing += time.perf_counter() - begun
            store(conn, tables)
            equity, fills = equity + last, fills + made
            written += sum(len(table_rows) for _, table_rows in tables.values())
        bars = len(rows) * (len(columns) if args.workload == "W2" else args.users)
        more = {"rows": written, "compute_s": round(computing, 5)}
        name, version = f"Python + COPY, {args.tables} tables", f"psycopg {psycopg.__version__}"
        clock.report(args, name, version, "same_close", bars, equity, fills, **more)
        conn.execute(f"drop schema peer_{args.tables} cascade")


if __name__ == "__main__":
    main()
