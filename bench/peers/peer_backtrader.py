"""backtrader, or its maintained fork backtrader-next, whichever the environment has.

Market orders fill at the next open, its default; limits on the next bars' range.
"""

from importlib.metadata import version

import pandas as pd
from common import CASH, QUARTERS, Clock, Monthly, arguments, read_frame, sip_terms

try:
    import backtrader as bt

    PEER, FEED = "backtrader", lambda frame: bt.feeds.PandasData(dataname=frame, openinterest=None)
except ImportError:
    import backtrader_next as bt

    PEER, FEED = "backtrader-next", lambda frame: bt.feeds.PandasData(dataframe=frame)


class Base(bt.Strategy):
    def __init__(self):
        self.curve, self.fills = [], 0

    def notify_order(self, order):
        if order.status == order.Completed:
            self.fills += 1

    def next(self):
        self.decide()
        self.curve.append(self.broker.getvalue())


class Sip(Base):
    params = (("amount", 1000), ("day", 1))

    def start(self):
        self.monthly = Monthly(self.p.day)

    def decide(self):
        if self.monthly.due(self.data.datetime.date(0)):
            quantity = int(self.p.amount // self.data.close[0])
            if quantity:
                self.buy(size=quantity)


class Portfolio(Base):
    def start(self):
        self.monthly, self.quarterly = Monthly(1), Monthly(15, QUARTERS)

    def decide(self):
        date = self.datas[0].datetime.date(0)
        if self.monthly.due(date):
            for data in self.datas:
                quantity = int(500 // data.close[0])
                if quantity:
                    self.buy(data=data, size=quantity)
        elif self.quarterly.due(date):
            share = sum(self.getposition(d).size * d.close[0] for d in self.datas) / len(self.datas)
            for data in self.datas:
                self.order_target_size(data=data, target=int(share // data.close[0]))


class Limits(Base):
    def decide(self):
        t, close = len(self) - 1, self.data.close[0]
        if t == 0:
            self.buy(size=1000)
        if t % 2 == 0:
            self.buy(size=1, exectype=bt.Order.Limit, price=round(close * 0.99, 2))
        else:
            self.sell(size=1, exectype=bt.Order.Limit, price=round(close * 1.01, 2))


def run(frames, cash, strategy, **options):
    cerebro = bt.Cerebro(stdstats=False)
    cerebro.broker.setcash(float(cash))
    for name, frame in frames:
        cerebro.adddata(FEED(frame), name=name)
    cerebro.addstrategy(strategy, **options)
    return cerebro.run()[0]


def main():
    args = arguments()
    frame = read_frame(args)
    frames = [("GOOG", frame)]
    if args.workload == "W2":
        ohlc = ("open", "high", "low", "close")
        frames = [(s, pd.DataFrame({k: frame[s] for k in ohlc} | {"volume": 0.0})) for s in frame]
    strategy = {"W2": Portfolio, "W4": Limits}.get(args.workload, Sip)
    clock, equity, fills = Clock(), 0.0, 0
    for user in range(args.users):
        options = dict(zip(("amount", "day"), sip_terms(user), strict=True)) if strategy is Sip else {}
        done = run(frames, CASH[args.workload], strategy, **options)
        assert len(done.curve) == len(frame)
        equity, fills = equity + done.curve[-1], fills + done.fills
    bars = len(frame) * len(frames) * args.users
    clock.report(args, PEER, version(PEER), "next_open", bars, equity, fills)


if __name__ == "__main__":
    main()
