"""bt: it has no limit orders, so no W4. Its algos trade at the same bar's close."""

import warnings

warnings.filterwarnings("ignore")

import bt  # noqa: E402
from common import CASH, QUARTERS, Clock, Monthly, arguments, read_frame, sip_terms  # noqa: E402


def transact(target, quantity, column):
    if quantity:
        target.transact(quantity, column)
        target.perm["fills"] = target.perm.get("fills", 0) + 1


class BuyMonthly(bt.Algo):
    """Buy floor(amount / close) of every column once a month."""

    def __init__(self, amount, day):
        super().__init__()
        self.amount, self.monthly = amount, Monthly(day)

    def __call__(self, target):
        if target.now in target.data.index and self.monthly.due(target.now):
            for column in target.universe.columns:
                transact(target, int(self.amount // target.universe.at[target.now, column]), column)
        return True


class EqualShares(bt.Algo):
    """Trade each to floor(V / n / close), V = the value held."""

    def __init__(self):
        super().__init__()
        self.quarterly = Monthly(15, QUARTERS)

    def __call__(self, target):
        if self.quarterly.due(target.now) and target.children:
            closes = target.universe.loc[target.now]
            held = {c: target.children[c].position if c in target.children else 0 for c in closes.index}
            share = sum(held[c] * closes[c] for c in closes.index) / len(closes)
            for column in closes.index:
                transact(target, int(share // closes[column]) - held[column], column)
        return True


def main():
    args = arguments("W1 W2 W3")
    frame = read_frame(args)
    prices = frame if args.workload == "W2" else frame[["close"]].set_axis(["GOOG"], axis=1)
    clock, equity, fills = Clock(), 0.0, 0
    for user in range(args.users):
        algos = [BuyMonthly(500, 1), EqualShares()] if args.workload == "W2" else [BuyMonthly(*sip_terms(user))]
        test = bt.Backtest(
            bt.Strategy("s", algos),
            prices,
            initial_capital=float(CASH[args.workload]),
            integer_positions=True,
            progress_bar=False,
        )
        test.run()
        equity, fills = equity + test.strategy.values.iloc[-1], fills + test.strategy.perm["fills"]
    clock.report(args, "bt", bt.__version__, "same_close", prices.size * args.users, equity, fills)


if __name__ == "__main__":
    main()
