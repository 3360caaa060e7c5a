# ---
# jupyter:
#   jupytext:
#     text_representation:
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     name: python3
# ---

# %% [markdown]
# # Two SIPs through 2008
# A worked example of the library: bundled prices, two monthly plans, what they came to. It runs as a script
# (`python examples/notebook.py`), cell by cell in VS Code, or as the notebook beside it; pandas is used where it is
# installed. At the end it deletes its runs and users; the bundled prices stay.

# %%
import engine_py as papertick

pt = papertick.connect()  # DB_DSN, or the embedded server
print(pt.load_bundled().read, "bars")

# %% [markdown]
# ## Two plans
# A user has one running run at a time, so each plan is a user's. The second raises its instalment by a tenth a year.

# %%
PLANS = {
    "IBM, 500 a month": dict(symbol="IBM", amount=500),
    "MSFT, 400 a month, 10 % more a year": dict(symbol="MSFT", amount=400, step_up_percent=10, step_up_every=12),
}
runs = {}
for name, plan in PLANS.items():
    run = pt.start_run(pt.create_user("ada's notebook"), 100_000, feed="bundled", name=name)
    run.create_sip(frequency="MONTHLY", start="2004-09-01", **plan)
    times = run.replay("2004-09-01")
    runs[name] = run
    print(f"{name}: {times} days, {len(run.trades())} fills, {len(run.violations())} violations")

# %% [markdown]
# ## What they came to
# `performance()` is a mapping from metric to `Decimal`; what has no value has a reason.

# %%
METRICS = ("equity", "bought", "unrealized_pnl", "xirr_invested", "twr", "max_drawdown", "sharpe", "hit_rate")
found = {name: run.performance() for name, run in runs.items()}
for metric in METRICS:
    values = (str(p[metric] if p[metric] is not None else p.reasons[metric]) for p in found.values())
    print(f"{metric:15}", *(f"{value:>14}" for value in values))

# %% [markdown]
# The same as a DataFrame, if pandas is there. Numbers are floats then; `to_pandas(exact=True)` keeps every digit.

# %%
try:
    import pandas as pd
except ImportError:
    print("pandas is not installed: pip install 'papertick[frames]'")
else:
    frame = pd.DataFrame({name: p.to_pandas() for name, p in found.items()})
    print(frame.loc[list(METRICS)].round(4).to_string())

# %% [markdown]
# ## Year by year
# Equity at every close, its last value of each year, and how much of it was invested. A few lines of SQL do as well as
# pandas, and need nothing but the database.

# %%
for name, run in runs.items():
    print(name)
    print(
        pt.sql(
            """select extract(year from at)::int as year, equity, round(100 * market_value / equity) as percent_invested
             from (select distinct on (extract(year from logical_time)) logical_time as at, equity, market_value
                     from equity_between(%s, %s) order by extract(year from logical_time), logical_time desc) last
            order by 1""",
            run.user_id,
            run.run_id,
        )
    )

# %% [markdown]
# ## Its worst time
# `drawdowns()` lists every fall below an earlier high, the deepest first.

# %%
for name, run in runs.items():
    worst = run.drawdowns()[0]
    print(f"{name}: {worst.depth:.1%} from {worst.peak_time:%Y-%m-%d} to {worst.trough_time:%Y-%m-%d}")

# %% [markdown]
# ## What if
# A run can be forked at any of its ticks: the same history, another future. Here the IBM plan invests twice as much
# from the day on which Lehman Brothers failed.

# %%
copy = runs["IBM, 500 a month"].fork("2008-09-15", name="IBM, 1000 a month from 2008-09-15")
copy.change_sip(1, 1000)
copy.replay()
for row in pt.leaderboard("xirr_invested", user_like="ada's notebook"):
    print(f"{row.rank}. {row.name}: {row.xirr_invested:.2%} a year, drawdown {row.max_drawdown:.1%}")

# %% [markdown]
# The same commands on another machine give the same digests. Then all of it goes.

# %%
for run in (*runs.values(), copy):
    print(run.digest()[:16], run.name)
    run.delete()
    run.user.delete()
pt.close()
