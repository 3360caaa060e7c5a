"""basana, the successor of PyAlgoTrade: exact decimals. Market orders fill at the next open, its default.

Turning rows into events is set-up.
"""

import asyncio
import datetime
from decimal import Decimal
from importlib.metadata import version

import basana as bs
from basana.backtesting import exchange, liquidity
from common import CASH, QUARTERS, Clock, Monthly, arguments, read_csv, sip_terms

DAY = datetime.timedelta(days=1)


class Strategy:
    def __init__(self, ex, pairs):
        self.ex, self.pairs, self.prices, self.got, self.curve, self.fills = ex, pairs, {}, 0, [], 0
        for pair in pairs:
            ex.subscribe_to_bar_events(pair, self.on_bar)

    async def on_bar(self, event):
        self.prices[event.bar.pair] = event.bar.close
        self.got += 1
        if self.got < len(self.pairs):
            return
        self.got = 0
        await self.decide(event.bar)
        balances = await self.ex.get_balances()
        equity = balances["USD"].total
        for pair in self.pairs:
            held = balances.get(pair.base_symbol)
            if held is not None:
                equity += held.total * self.prices[pair]
        self.curve.append(equity)

    async def market(self, pair, quantity):
        if quantity:
            side = bs.OrderOperation.BUY if quantity > 0 else bs.OrderOperation.SELL
            await self.ex.create_market_order(side, pair, Decimal(abs(quantity)))


class Sip(Strategy):
    def __init__(self, ex, pairs, amount=1000, day=1):
        super().__init__(ex, pairs)
        self.amount, self.monthly = amount, Monthly(day)

    async def decide(self, bar):
        if self.monthly.due(bar.begin):
            await self.market(bar.pair, int(self.amount // bar.close))


class Portfolio(Strategy):
    def __init__(self, ex, pairs):
        super().__init__(ex, pairs)
        self.monthly, self.quarterly = Monthly(1), Monthly(15, QUARTERS)

    async def decide(self, bar):
        if self.monthly.due(bar.begin):
            for pair in self.pairs:
                await self.market(pair, int(500 // self.prices[pair]))
        elif self.quarterly.due(bar.begin):
            held = {p: int((await self.ex.get_balance(p.base_symbol)).total) for p in self.pairs}
            share = sum(held[p] * self.prices[p] for p in self.pairs) / len(self.pairs)
            for pair in self.pairs:
                await self.market(pair, int(share // self.prices[pair]) - held[pair])


class Limits(Strategy):
    t = 0

    async def decide(self, bar):
        if self.t == 0:
            await self.market(bar.pair, 1000)
        buys = self.t % 2 == 0
        side = bs.OrderOperation.BUY if buys else bs.OrderOperation.SELL
        price = round(bar.close * Decimal("0.99" if buys else "1.01"), 2)
        await self.ex.create_limit_order(side, bar.pair, Decimal(1), price)
        self.t += 1


def run(events, pairs, cash, strategy, precision, **options):
    dispatcher = bs.backtesting_dispatcher()
    ex = exchange.Exchange(
        dispatcher,
        {"USD": Decimal(cash)},
        liquidity_strategy_factory=liquidity.InfiniteLiquidity,
        default_pair_info=bs.PairInfo(base_precision=0, quote_precision=precision),
    )
    for source in events:
        ex.add_bar_source(bs.FifoQueueEventSource(events=source))
    made = strategy(ex, pairs, **options)
    asyncio.run(dispatcher.run())
    made.fills = sum(len(order.fills) for order in asyncio.run(ex.get_orders()))
    return made


def main():
    args = arguments()
    columns, rows = read_csv(args, Decimal)
    at = [datetime.datetime.combine(date, datetime.time(), datetime.UTC) for date, _ in rows]
    if args.workload == "W2":
        pairs = [bs.Pair(name, "USD") for name in columns]
        bars = [[(v[i], v[i], v[i], v[i], Decimal(1)) for _, v in rows] for i in range(len(pairs))]
    else:
        pairs, bars = [bs.Pair("GOOG", "USD")], [[v for _, v in rows]]
    events = [
        [bs.BarEvent(t + DAY, bs.Bar(t, pair, *bar, DAY)) for t, bar in zip(at, series, strict=True)]
        for pair, series in zip(pairs, bars, strict=True)
    ]
    strategy = {"W2": Portfolio, "W4": Limits}.get(args.workload, Sip)
    clock, equity, fills = Clock(), 0, 0
    for user in range(args.users):
        options = dict(zip(("amount", "day"), sip_terms(user), strict=True)) if strategy is Sip else {}
        done = run(events, pairs, CASH[args.workload], strategy, 4 if args.workload == "W2" else 2, **options)
        assert len(done.curve) == len(rows)
        equity, fills = equity + done.curve[-1], fills + done.fills
    bars = len(rows) * len(pairs) * args.users
    clock.report(args, "basana", version("basana"), "next_open", bars, equity, fills)


if __name__ == "__main__":
    main()
