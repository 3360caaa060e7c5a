"""One order through NautilusTrader's simulated venue as it comes: bar execution, open → high → low → close, no latency."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal

from nautilus_trader.backtest.config import BacktestEngineConfig
from nautilus_trader.backtest.engine import BacktestEngine
from nautilus_trader.config import LoggingConfig
from nautilus_trader.model import data as nautilus
from nautilus_trader.model.currencies import USD
from nautilus_trader.model.enums import AccountType, OmsType, OrderSide, TimeInForce
from nautilus_trader.model.events import OrderDenied, OrderEvent, OrderExpired, OrderFilled, OrderRejected
from nautilus_trader.model.identifiers import InstrumentId, Symbol, Venue
from nautilus_trader.model.instruments import Equity
from nautilus_trader.model.objects import Money, Price, Quantity
from nautilus_trader.trading.strategy import Strategy

from tests.peers import Bar, Fill, Order, Outcome

VENUE = Venue("SIM")
BAR_TYPE = nautilus.BarType.from_str("ACME.SIM-1-HOUR-LAST-EXTERNAL")
ACME = Equity(
    instrument_id=InstrumentId(Symbol("ACME"), VENUE),
    raw_symbol=Symbol("ACME"),
    currency=USD,
    price_precision=2,
    price_increment=Price.from_str("0.01"),
    lot_size=Quantity.from_int(1),
    ts_event=0,
    ts_init=0,
)


def _price(value: Decimal) -> Price:
    return Price.from_str(f"{value:.2f}")


def _ns(bar: Bar) -> int:
    return int(bar.time.timestamp()) * 1_000_000_000


class Sender(Strategy):  # type: ignore[misc]
    """Sends the order after bar 0."""

    def __init__(self, order: Order, bars: Sequence[Bar]) -> None:
        super().__init__()
        self.order = order
        self.times = [_ns(bar) for bar in bars]
        self.sent = False
        self.outcome: Outcome = "OPEN"

    def on_start(self) -> None:
        self.subscribe_bars(BAR_TYPE)

    def on_bar(self, bar: nautilus.Bar) -> None:
        if self.sent:
            return
        self.sent = True
        make = {
            "MARKET": self.order_factory.market,
            "LIMIT": self.order_factory.limit,
            "STOP": self.order_factory.stop_market,
            "STOP_LIMIT": self.order_factory.stop_limit,
        }
        prices = {"price": self.order.limit, "trigger_price": self.order.stop}
        self.submit_order(
            make[self.order.kind](
                instrument_id=ACME.id,
                order_side=OrderSide[self.order.side],
                quantity=Quantity.from_int(7),
                time_in_force=TimeInForce[self.order.tif],
                **{name: _price(value) for name, value in prices.items() if value is not None},
            )
        )

    def on_order_event(self, event: OrderEvent) -> None:
        if isinstance(event, OrderFilled):
            self.outcome = Fill(self.times.index(event.ts_event), event.last_px.as_decimal())
        elif isinstance(event, OrderRejected | OrderDenied):
            self.outcome = "REJECTED"
        elif isinstance(event, OrderExpired):
            self.outcome = "EXPIRED"


def outcome(order: Order, bars: Sequence[Bar]) -> Outcome:
    engine = BacktestEngine(BacktestEngineConfig(logging=LoggingConfig(bypass_logging=True)))
    engine.add_venue(
        venue=VENUE,
        oms_type=OmsType.NETTING,
        account_type=AccountType.MARGIN,
        base_currency=USD,
        starting_balances=[Money(1_000_000, USD)],
    )
    engine.add_instrument(ACME)
    volume = Quantity.from_int(1_000_000)
    engine.add_data([nautilus.Bar(BAR_TYPE, *map(_price, bar[2:]), volume, _ns(bar), _ns(bar)) for bar in bars])
    sender = Sender(order, bars)
    engine.add_strategy(sender)
    engine.run()
    engine.dispose()
    return sender.outcome
