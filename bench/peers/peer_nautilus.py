"""nautilus_trader. Needs Python 3.12. Turning rows into its bars is set-up.

Market orders sent from on_bar fill at that bar's close (its bar execution, no latency model); resting limits fill at
their own price, also through a gap, as the next bars walk open, high, low, close.
"""

import warnings

import nautilus_trader
import pandas as pd
from common import CASH, QUARTERS, Clock, Monthly, arguments, read_frame, sip_terms
from nautilus_trader.backtest.config import BacktestEngineConfig
from nautilus_trader.backtest.engine import BacktestEngine
from nautilus_trader.config import LoggingConfig, StrategyConfig
from nautilus_trader.model.currencies import USD
from nautilus_trader.model.data import BarType
from nautilus_trader.model.enums import AccountType, OmsType, OrderSide
from nautilus_trader.model.identifiers import InstrumentId, Symbol, Venue
from nautilus_trader.model.instruments import Equity
from nautilus_trader.model.objects import Money, Price, Quantity
from nautilus_trader.persistence.wranglers import BarDataWrangler
from nautilus_trader.trading.strategy import Strategy

SIM = Venue("SIM")
warnings.filterwarnings("ignore")


class Config(StrategyConfig, frozen=True):
    bar_types: list
    amount: int = 1000
    day: int = 1


class Base(Strategy):
    def __init__(self, config):
        super().__init__(config)
        self.curve, self.fills, self.closes = [], 0, {}

    def on_start(self):
        types = [BarType.from_str(name) for name in self.config.bar_types]
        self.ids = [bar_type.instrument_id for bar_type in types]
        for bar_type in types:
            self.subscribe_bars(bar_type)

    def on_bar(self, bar):
        self.closes[bar.bar_type.instrument_id] = bar.close.as_double()
        if bar.bar_type.instrument_id == self.ids[-1]:  # the date's last symbol
            self.decide(pd.Timestamp(bar.ts_event))
            self.mark()

    def on_order_filled(self, event):
        self.fills += 1

    def market(self, key, quantity):
        if quantity:
            side = OrderSide.BUY if quantity > 0 else OrderSide.SELL
            self.submit_order(self.order_factory.market(key, side, Quantity.from_int(abs(quantity))))

    def equity(self):
        cash = self.portfolio.account(SIM).balance_total(USD).as_double()
        return cash + sum(float(self.portfolio.net_position(key)) * self.closes[key] for key in self.ids)

    def mark(self):
        self.curve.append(self.equity())


class Sip(Base):
    def on_start(self):
        super().on_start()
        self.monthly = Monthly(self.config.day)

    def decide(self, date):
        if self.monthly.due(date):
            self.market(self.ids[0], int(self.config.amount // self.closes[self.ids[0]]))


class Portfolio(Base):
    def on_start(self):
        super().on_start()
        self.monthly, self.quarterly = Monthly(1), Monthly(15, QUARTERS)

    def decide(self, date):
        if self.monthly.due(date):
            for key in self.ids:
                self.market(key, int(500 // self.closes[key]))
        elif self.quarterly.due(date):
            held = {key: int(self.portfolio.net_position(key)) for key in self.ids}
            share = sum(held[key] * self.closes[key] for key in self.ids) / len(self.ids)
            for key in self.ids:
                self.market(key, int(share // self.closes[key]) - held[key])


class Limits(Base):
    t = 0

    def decide(self, date):
        key, close = self.ids[0], self.closes[self.ids[0]]
        if self.t == 0:
            self.market(key, 1000)
        side, price = (OrderSide.BUY, close * 0.99) if self.t % 2 == 0 else (OrderSide.SELL, close * 1.01)
        self.submit_order(self.order_factory.limit(key, side, Quantity.from_int(1), Price(round(price, 2), 2)))
        self.t += 1


def engine_for(frames, cash, precision):
    engine = BacktestEngine(BacktestEngineConfig(logging=LoggingConfig(bypass_logging=True)))
    engine.add_venue(
        venue=SIM,
        oms_type=OmsType.NETTING,
        account_type=AccountType.CASH,
        base_currency=USD,
        starting_balances=[Money(cash, USD)],
    )
    types = []
    for name, frame in frames:
        instrument = Equity(
            instrument_id=InstrumentId(Symbol(name), SIM),
            raw_symbol=Symbol(name),
            currency=USD,
            price_precision=precision,
            price_increment=Price(10**-precision, precision),
            lot_size=Quantity.from_int(1),
            ts_event=0,
            ts_init=0,
        )
        engine.add_instrument(instrument)
        bar_type = BarType.from_str(f"{name}.SIM-1-DAY-LAST-EXTERNAL")
        engine.add_data(BarDataWrangler(bar_type, instrument).process(frame), sort=False)
        types.append(str(bar_type))
    engine.sort_data()
    return engine, types


def main():
    args = arguments()
    frame = read_frame(args).tz_localize("UTC")
    frames = [("GOOG", frame)]
    if args.workload == "W2":
        # So much volume that no order is cut; an integer, because pandas hands the wrangler one float block read-only.
        ohlc = ("open", "high", "low", "close")
        frames = [(s, pd.DataFrame({k: frame[s] for k in ohlc} | {"volume": 1_000_000_000})) for s in frame]
    strategy = {"W2": Portfolio, "W4": Limits}.get(args.workload, Sip)
    engine, types = engine_for(frames, CASH[args.workload], 4 if args.workload == "W2" else 2)
    clock, equity, fills = Clock(), 0.0, 0
    for user in range(args.users):
        options = dict(zip(("amount", "day"), sip_terms(user), strict=True)) if strategy is Sip else {}
        made = strategy(Config(bar_types=types, **options))
        engine.add_strategy(made)
        engine.run()
        assert len(made.curve) == len(frame)
        equity, fills = equity + made.equity(), fills + made.fills
        engine.reset()
        engine.clear_strategies()
    bars = len(frame) * len(frames) * args.users
    clock.report(args, "nautilus_trader", nautilus_trader.__version__, "same_close", bars, equity, fills)


if __name__ == "__main__":
    main()
