"""zipline-reloaded. Orders fill at the next session's close, its default for daily data; limits look at closes only.

Ingesting the CSV bundle is set-up. W2 leaves out the first day: its exchange calendar starts on that very day.
"""

import logging
import os
import tempfile
import warnings

warnings.filterwarnings("ignore")
PLACE = tempfile.TemporaryDirectory(prefix="zipline-bench-", ignore_cleanup_errors=True)
os.environ["ZIPLINE_ROOT"] = PLACE.name  # read when it is imported

import pandas as pd  # noqa: E402
import zipline  # noqa: E402
from common import CASH, QUARTERS, W4_BARS, Clock, Monthly, arguments, read_frame, sip_terms  # noqa: E402
from zipline import run_algorithm  # noqa: E402
from zipline.api import get_datetime, order, order_target, set_commission, set_slippage, symbol  # noqa: E402
from zipline.data.bundles import ingest, register  # noqa: E402
from zipline.data.bundles.csvdir import csvdir_equities  # noqa: E402
from zipline.finance import commission, slippage  # noqa: E402

logging.disable(logging.CRITICAL)


def free_of_costs():
    set_commission(commission.NoCommission())
    set_slippage(slippage.NoSlippage())


def sip(amount, day):
    def initialize(context):
        free_of_costs()
        context.asset, context.monthly = symbol("GOOG"), Monthly(day)

    def handle_data(context, data):
        if context.monthly.due(get_datetime()):
            quantity = int(amount // data.current(context.asset, "close"))
            if quantity:
                order(context.asset, quantity)

    return initialize, handle_data


def portfolio(names):
    def initialize(context):
        free_of_costs()
        context.assets = [symbol(name) for name in names]
        context.monthly, context.quarterly = Monthly(1), Monthly(15, QUARTERS)

    def handle_data(context, data):
        date = get_datetime()
        if context.monthly.due(date):
            closes = data.current(context.assets, "close")
            for asset in context.assets:
                quantity = int(500 // closes[asset])
                if quantity:
                    order(asset, quantity)
        elif context.quarterly.due(date):
            closes, held = data.current(context.assets, "close"), context.portfolio.positions
            share = sum(held[asset].amount * closes[asset] for asset in context.assets) / len(context.assets)
            for asset in context.assets:
                order_target(asset, int(share // closes[asset]))

    return initialize, handle_data


def limits():
    def initialize(context):
        free_of_costs()
        context.asset, context.t = symbol("GOOG"), 0

    def handle_data(context, data):
        close = data.current(context.asset, "close")
        if context.t == 0:
            order(context.asset, 1000)
        if context.t % 2 == 0:
            order(context.asset, 1, limit_price=round(close * 0.99, 2))
        else:
            order(context.asset, -1, limit_price=round(close * 1.01, 2))
        context.t += 1

    return initialize, handle_data


def make_bundle(args, frame):
    daily = os.path.join(PLACE.name, "csv", "daily")
    os.makedirs(daily)
    extra = {"dividend": 0.0, "split": 1.0}
    if args.workload == "W2":
        ohlc = ("open", "high", "low", "close")
        for name in frame:
            bars = pd.DataFrame({k: frame[name] for k in ohlc} | {"volume": 1_000_000} | extra)
            bars.to_csv(os.path.join(daily, f"{name}.csv"))
    else:
        frame.assign(**extra).to_csv(os.path.join(daily, "GOOG.csv"))
    source = csvdir_equities(["daily"], os.path.join(PLACE.name, "csv"))
    register("bench", source, calendar_name="XNYS", start_session=frame.index[0], end_session=frame.index[-1])
    ingest("bench", show_progress=False)


def main():
    args = arguments()
    workload, args.workload = args.workload, "W1" if args.workload == "W4" else args.workload
    frame = read_frame(args)  # W4 ingests the whole series, as orders of the last bar look at the next
    args.workload = workload
    if workload == "W2":
        frame = frame.iloc[1:]
    make_bundle(args, frame)
    days = frame.index[:W4_BARS] if workload == "W4" else frame.index
    clock, equity, fills = Clock(), 0.0, 0
    for user in range(args.users):
        strategies = {"W2": lambda: portfolio(list(frame)), "W4": limits}
        initialize, handle_data = strategies.get(workload, lambda user=user: sip(*sip_terms(user)))()
        done = run_algorithm(
            start=days[0],
            end=days[-1],
            initialize=initialize,
            handle_data=handle_data,
            capital_base=float(CASH[workload]),
            data_frequency="daily",
            bundle="bench",
            benchmark_returns=pd.Series(0.0, index=days),
        )
        assert len(done) == len(days)
        equity, fills = equity + done.portfolio_value.iloc[-1], fills + int(done.transactions.map(len).sum())
    bars = len(days) * (frame.shape[1] if workload == "W2" else args.users)
    clock.report(args, "zipline-reloaded", zipline.__version__, "next_close", bars, equity, fills)


if __name__ == "__main__":
    main()
