"""akquant: a Rust core under a Python strategy. Market orders fill at the next open (its NextOpen policy)."""

import contextlib
import io
import warnings

warnings.filterwarnings("ignore")

import akquant as aq  # noqa: E402
import pandas as pd  # noqa: E402
from common import CASH, QUARTERS, Clock, Monthly, arguments, read_frame, sip_terms  # noqa: E402


class Sip(aq.Strategy):
    def __init__(self, amount=1000, day=1):
        super().__init__()
        self.amount, self.monthly = amount, Monthly(day)

    def on_bar(self, bar):
        if self.monthly.due(pd.Timestamp(bar.timestamp)):
            quantity = int(self.amount // bar.close)
            if quantity:
                self.buy(bar.symbol, quantity)


class Portfolio(aq.Strategy):
    def __init__(self, n=20):
        super().__init__()
        self.monthly, self.quarterly, self.closes, self.n, self.got = Monthly(1), Monthly(15, QUARTERS), {}, n, 0

    def on_bar(self, bar):
        self.closes[bar.symbol] = bar.close
        self.got += 1
        if self.got < self.n:
            return
        self.got = 0
        date = pd.Timestamp(bar.timestamp)
        if self.monthly.due(date):
            for symbol, close in self.closes.items():
                if 500 // close:
                    self.buy(symbol, int(500 // close))
        elif self.quarterly.due(date):
            held = {s: self.get_position(s) for s in self.closes}
            share = sum(held[s] * close for s, close in self.closes.items()) / self.n
            for symbol, close in self.closes.items():
                quantity = int(share // close) - int(held[symbol])
                if quantity > 0:
                    self.buy(symbol, quantity)
                elif quantity < 0:
                    self.sell(symbol, -quantity)


class Limits(aq.Strategy):
    def __init__(self):
        super().__init__()
        self.t = 0

    def on_bar(self, bar):
        if self.t == 0:
            self.buy(bar.symbol, 1000)
        if self.t % 2 == 0:
            self.buy(bar.symbol, 1, price=round(bar.close * 0.99, 2))
        else:
            self.sell(bar.symbol, 1, price=round(bar.close * 1.01, 2))
        self.t += 1


def run(data, symbols, cash, strategy):
    return aq.run_backtest(
        data=data,
        strategy=strategy,
        symbols=symbols,
        initial_cash=float(cash),
        commission_rate=0.0,
        stamp_tax_rate=0.0,
        transfer_fee_rate=0.0,
        min_commission=0.0,
        slippage=0.0,
        timezone="UTC",
        volume_limit_pct=1.0,
        fill_policy=aq.NextOpen(),
        show_progress=False,
        lot_size=1,
    )


def main():
    args = arguments()
    frame = read_frame(args).tz_localize("UTC")
    if args.workload == "W2":
        ohlc, same = ("open", "high", "low", "close"), {"date": frame.index, "volume": 1e9}
        data = {s: pd.DataFrame(same | {k: frame[s].values for k in ohlc} | {"symbol": s}) for s in frame}
        symbols, n = list(frame), frame.size
    else:
        data, symbols, n = frame.reset_index().assign(symbol="GOOG"), "GOOG", len(frame)
    clock, equity, fills = Clock(), 0.0, 0
    with contextlib.redirect_stdout(io.StringIO()):
        for user in range(args.users):
            strategy = {"W2": Portfolio, "W4": Limits}.get(args.workload, Sip)
            made = strategy(*sip_terms(user)) if strategy is Sip else strategy()
            done = run(data, symbols, CASH[args.workload], made)
            equity, fills = equity + float(done.equity_curve.iloc[-1]), fills + len(done.executions_df)
    clock.report(args, "akquant", aq.__version__, "next_open", n * args.users, equity, fills)


if __name__ == "__main__":
    main()
