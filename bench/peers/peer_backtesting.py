"""backtesting.py: one symbol a backtest, so no W2. Market orders fill at the next open, its default.

Its first call is at bar 1, so what is decided on bar 0 is decided a bar late.
"""

import warnings

import backtesting
from backtesting import Backtest, Strategy
from common import CASH, Clock, Monthly, arguments, read_frame, sip_terms

warnings.filterwarnings("ignore")


class Sip(Strategy):
    amount, day = 1000, 1

    def init(self):
        self.monthly = Monthly(self.day)

    def next(self):
        if self.monthly.due(self.data.index[-1]):
            quantity = int(self.amount // self.data.Close[-1])
            if quantity:
                self.buy(size=quantity)


class Limits(Strategy):
    def init(self):
        pass

    def next(self):
        t, close = len(self.data) - 1, self.data.Close[-1]
        if t == 1:
            self.buy(size=1000)
        if t % 2 == 0:
            self.buy(size=1, limit=round(close * 0.99, 2))
        else:
            self.sell(size=1, limit=round(close * 1.01, 2))


def main():
    args = arguments("W1 W3 W4")
    backtesting.backtesting._tqdm = lambda items, **_: items  # no progress bar in the timing
    frame = read_frame(args)
    frame.columns = ["Open", "High", "Low", "Close", "Volume"]
    clock, equity, fills = Clock(), 0.0, 0
    for user in range(args.users):
        strategy = Limits if args.workload == "W4" else Sip
        test = Backtest(frame, strategy, cash=CASH[args.workload], finalize_trades=False)
        if args.workload == "W4":
            stats, fills = test.run(), None  # it nets its trades, so fills cannot be told
        else:
            stats = test.run(**dict(zip(("amount", "day"), sip_terms(user), strict=True)))
            fills += len(stats._strategy.trades)
        equity += stats["_equity_curve"].Equity.iloc[-1]
    bars = len(frame) * args.users
    clock.report(args, "backtesting.py", backtesting.__version__, "next_open", bars, equity, fills)


if __name__ == "__main__":
    main()
