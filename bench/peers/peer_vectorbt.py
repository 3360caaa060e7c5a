"""vectorbt: no resting limit orders, so no W4. Orders fill at the same bar's close.

W3 is one call with a column per user. Everything is done twice: cold_s is the first call, just-in-time compilation
included, wall_s the second.
"""

import time
import warnings

warnings.filterwarnings("ignore")

import numpy as np  # noqa: E402
import pandas as pd  # noqa: E402
import vectorbt as vbt  # noqa: E402
from common import CASH, QUARTERS, Clock, arguments, read_frame, sip_terms  # noqa: E402
from numba import njit  # noqa: E402
from vectorbt.portfolio import nb  # noqa: E402
from vectorbt.portfolio.enums import NoOrder, SizeType  # noqa: E402


def monthly(index, day, months=range(1, 13)):
    """Mask of the first bar on or after the day of each month."""
    due = (index.day >= day) & np.isin(index.month, list(months))
    key = np.where(due, index.year * 12 + index.month, -1)
    mask = np.zeros(len(index), dtype=bool)
    seen, first = np.unique(key, return_index=True)
    mask[first[seen >= 0]] = True
    return mask


@njit
def decide(c, is_sip, is_rebalance, amount, wanted):
    """The whole bar, all columns, before its orders are made."""
    for k in range(c.group_len):
        wanted[k] = 0.0
    if is_sip[c.i]:
        for k in range(c.group_len):
            wanted[k] = amount // c.close[c.i, k]
    elif is_rebalance[c.i]:
        value = 0.0
        for k in range(c.group_len):
            value += c.last_position[k] * c.close[c.i, k]
        value /= c.group_len
        for k in range(c.group_len):
            wanted[k] = value // c.close[c.i, k] - c.last_position[k]
    return (wanted,)


@njit
def order(c, wanted):
    quantity = wanted[c.col]
    if quantity == 0.0:
        return NoOrder
    return nb.order_nb(size=quantity, price=c.close[c.i, c.col], size_type=SizeType.Amount)


def portfolio(prices):
    index, wanted = prices.index, np.zeros(prices.shape[1])
    return vbt.Portfolio.from_order_func(
        prices,
        order,
        pre_segment_func_nb=decide,
        pre_segment_args=(monthly(index, 1), monthly(index, 15, QUARTERS), 500.0, wanted),
        init_cash=float(CASH["W2"]),
        cash_sharing=True,
        group_by=True,
        freq="1D",
    )


def sips(prices, users):
    close, size = prices.to_numpy(), np.zeros((len(prices), users))
    for user in range(users):
        amount, day = sip_terms(user)
        mask = monthly(prices.index, day)
        size[mask, user] = np.floor_divide(float(amount), close[mask])
    columns = pd.DataFrame(np.broadcast_to(close[:, None], size.shape), index=prices.index)
    return vbt.Portfolio.from_orders(columns, size=size, init_cash=float(CASH["W1"]), freq="1D")


def main():
    args = arguments("W1 W2 W3")
    frame = read_frame(args)
    prices = frame if args.workload == "W2" else frame["close"]

    def once():
        done = portfolio(prices) if args.workload == "W2" else sips(prices, args.users)
        curve = done.value()  # the whole equity curve of every column
        return float(np.sum(curve.iloc[-1])), int(np.sum(done.orders.count()))

    begun = time.perf_counter()
    once()
    cold = time.perf_counter() - begun
    clock = Clock()
    equity, fills = once()
    bars = prices.size * args.users
    clock.report(args, "vectorbt", vbt.__version__, "same_close", bars, equity, fills, cold_s=round(cold, 2))


if __name__ == "__main__":
    main()
