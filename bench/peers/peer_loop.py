"""A plain Python loop in floats; it keeps nothing. The floor of every engine, and the check of every peer's answer.

--fill says where orders fill: same_close, next_open or next_close. Standard library only.
"""

from common import CASH, QUARTERS, Clock, Monthly, arguments, read_csv, sip_terms


def fill_price(fill, bar):
    return bar[0] if fill == "next_open" else bar[3]


def sip(rows, amount, day, fill):
    cash, monthly, pending, held, curve, fills = CASH["W1"], Monthly(day), 0, 0, [], 0
    for date, bar in rows:
        close = bar[3]
        if pending:
            cash -= pending * fill_price(fill, bar)
            held += pending
            fills += 1
            pending = 0
        if monthly.due(date):
            quantity = int(amount // close)
            if quantity and fill == "same_close":
                cash -= quantity * close
                held += quantity
                fills += 1
            else:
                pending = quantity
        curve.append(cash + held * close)
    return curve, fills


def portfolio(rows, fill):
    cash, n = CASH["W2"], len(rows[0][1])
    monthly, quarterly = Monthly(1), Monthly(15, QUARTERS)
    held, pending, curve, fills = [0] * n, None, [], 0

    def trade(wanted, closes):
        nonlocal cash, fills
        for i, quantity in enumerate(wanted):
            if quantity:
                cash -= quantity * closes[i]
                held[i] += quantity
                fills += 1

    for date, closes in rows:
        if pending:
            trade(pending, closes)
        wanted, pending = None, None
        if monthly.due(date):
            wanted = [int(500 // close) for close in closes]
        elif quarterly.due(date):
            share = sum(p * q for p, q in zip(closes, held, strict=True)) / n
            wanted = [int(share // p) - q for p, q in zip(closes, held, strict=True)]
        if wanted and fill == "same_close":
            trade(wanted, closes)
        else:
            pending = wanted
        curve.append(cash + sum(p * q for p, q in zip(closes, held, strict=True)))
    return curve, fills


def limits(rows, fill):
    cash, held, pending, book, curve, fills = CASH["W4"], 0, 0, [], [], 0
    for t, (_, (open_, high, low, close, _)) in enumerate(rows):
        if pending:
            cash -= pending * (open_ if fill == "next_open" else close)
            held, fills, pending = held + pending, fills + 1, 0
        kept = []
        for side, price in book:
            if side > 0 and low <= price:
                cash, held, fills = cash - min(open_, price), held + 1, fills + 1
            elif side < 0 and high >= price:
                cash, held, fills = cash + max(open_, price), held - 1, fills + 1
            else:
                kept.append((side, price))
        book = kept
        if t == 0 and fill == "same_close":
            cash, held, fills = cash - 1000 * close, held + 1000, fills + 1
        elif t == 0:
            pending = 1000
        book.append((1, round(close * 0.99, 2)) if t % 2 == 0 else (-1, round(close * 1.01, 2)))
        curve.append(cash + held * close)
    return curve, fills


def main():
    fill = {"default": "same_close", "choices": ["same_close", "next_open", "next_close"]}
    args = arguments(fill=fill)
    columns, rows = read_csv(args)
    clock, equity, fills = Clock(), 0.0, 0
    for user in range(args.users):
        if args.workload == "W2":
            curve, made = portfolio(rows, args.fill)
        elif args.workload == "W4":
            curve, made = limits(rows, args.fill)
        else:
            curve, made = sip(rows, *sip_terms(user), args.fill)
        equity, fills = equity + curve[-1], fills + made
    bars = len(rows) * (len(columns) if args.workload == "W2" else args.users)
    clock.report(args, "plain Python loop", "-", args.fill, bars, equity, fills)


if __name__ == "__main__":
    main()
