"""A user and a run of the library: ids, and the verbs that take them. The rest is asked of the database each time."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING, Any, LiteralString, TypeVar, cast

from psycopg import sql

from engine_py import replaying, rows
from engine_py.arguments import NULL, Day, Moment, Number, moment_text
from engine_py.errors import NotFoundError
from engine_py.results import Performance, Rows
from engine_py.runref import RunKey

if TYPE_CHECKING:
    from engine_py.client import Papertick

T = TypeVar("T")


class User:
    """An owner of runs."""

    def __init__(self, pt: Papertick, user_id: int) -> None:
        self._pt = pt
        self.user_id = user_id

    def __index__(self) -> int:
        return self.user_id

    def __eq__(self, other: object) -> bool:
        return isinstance(other, User) and self.user_id == other.user_id

    def __hash__(self) -> int:
        return hash(self.user_id)

    def __repr__(self) -> str:
        return f"User({self.user_id})"

    @property
    def name(self) -> str:
        found = self._pt.select(rows.AppUser, "select * from public.app_user where user_id = %s", self.user_id)
        if not found:
            raise NotFoundError("unknown user", detail=f"user_id={self.user_id}")
        return found[0].name

    def delete(self) -> bool:
        """Delete the user, with keys and logins; whether there was one. ConflictError (23503) while there are runs."""
        return bool(self._pt.call_value("delete_user", {"user_id": self.user_id}))

    def runs(self) -> Rows[rows.RunRow]:
        """The runs of this user, as rows; `run(id)` makes an object of one."""
        return self._pt.select(
            rows.RunRow, "select * from public.strategy_run where user_id = %s order by run_id", self.user_id
        )

    def run(self, run_id: int) -> Run:
        return self._pt.get_run(self, run_id)

    def start_run(self, initial_cash: Number, feed: str | None = None, name: str | None = None, **terms: Any) -> Run:
        """Papertick.start_run for this user."""
        return self._pt.start_run(self, initial_cash, feed, name, **terms)


class Run:
    """A run by its key."""

    def __init__(self, pt: Papertick, user_id: int, run_id: int) -> None:
        self._pt = pt
        self.user_id = user_id
        self.run_id = run_id

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Run) and (self.user_id, self.run_id) == (other.user_id, other.run_id)

    def __hash__(self) -> int:
        return hash((self.user_id, self.run_id))

    def __repr__(self) -> str:
        return f"Run(user_id={self.user_id}, run_id={self.run_id})"

    # --- what it is

    def info(self) -> rows.RunRow:
        """Its row of strategy_run. Raises NotFoundError (TE204)."""
        query = "select * from public.strategy_run where user_id = %s and run_id = %s"
        found = self._pt.select(rows.RunRow, query, self.user_id, self.run_id)
        if not found:
            detail = f"user_id={self.user_id} run_id={self.run_id}"
            raise NotFoundError("unknown run", code="TE204", detail=detail, hint="Check user_id and run_id.")
        return found[0]

    @property
    def user(self) -> User:
        return User(self._pt, self.user_id)

    @property
    def name(self) -> str:
        return self.info().name

    @property
    def feed(self) -> str:
        return self.info().feed

    @property
    def status(self) -> str:
        """RUNNING, STOPPED or ERROR."""
        return self.info().status

    @property
    def last_logical_time(self) -> datetime | None:
        """Its last tick; None before the first."""
        query = "select last_logical_time from public.engine_state where user_id = %s and run_id = %s"
        found = self._pt.sql(query, self.user_id, self.run_id)
        if not found:
            self.info()
        return cast("datetime | None", found[0][0]) if found else None

    # --- orders

    def place_order(
        self,
        symbol: str,
        side: str,
        quantity: Number,
        order_type: str | None = None,
        limit_price: Number | None = None,
        stop_price: Number | None = None,
        time_in_force: str | None = None,
        client_order_id: str | None = None,
        *,
        trail_amount: Number | None = None,
        trail_percent: Number | None = None,
        good_till: Moment | None = None,
        take_profit: Number | None = None,
        stop_loss: Number | None = None,
        stop_loss_limit: Number | None = None,
        **more: object,
    ) -> rows.Order:
        """An order that fills on bars after the run's last tick. One that cannot be accepted comes back REJECTED."""
        return self._call(rows.Order, "place_order", locals(), repeatable=client_order_id is not None)[0]

    def place_oco(
        self,
        symbol: str,
        side: str,
        quantity: Number,
        limit_price: Number,
        stop_price: Number,
        stop_limit_price: Number | None = None,
        time_in_force: str | None = None,
        client_order_id: str | None = None,
        *,
        good_till: Moment | None = None,
        **more: object,
    ) -> Rows[rows.Order]:
        """A limit and a stop order that share one quantity."""
        return self._call(rows.Order, "place_oco", locals(), repeatable=client_order_id is not None)

    def replace_order(
        self,
        order_id: int,
        quantity: Number | None = None,
        limit_price: Number | None = None,
        stop_price: Number | None = None,
        client_order_id: str | None = None,
        time_in_force: str | None = None,
        *,
        trail_amount: Number | None = None,
        trail_percent: Number | None = None,
        good_till: Moment | None = None,
        **more: object,
    ) -> rows.Order:
        """The new order in place of an open one; what is not given stays."""
        return self._call(rows.Order, "replace_order", locals(), repeatable=client_order_id is not None)[0]

    def cancel_order(self, order_id: int, **more: object) -> rows.Order:
        return self._call(rows.Order, "cancel_order", locals())[0]

    def preview_order(
        self,
        symbol: str,
        side: str,
        quantity: Number,
        order_type: str | None = None,
        limit_price: Number | None = None,
        stop_price: Number | None = None,
        time_in_force: str | None = None,
        *,
        trail_amount: Number | None = None,
        trail_percent: Number | None = None,
        good_till: Moment | None = None,
        take_profit: Number | None = None,
        stop_loss: Number | None = None,
        stop_loss_limit: Number | None = None,
        **more: object,
    ) -> rows.OrderPreview:
        """What place_order would answer now, and what the order would come to. Stores nothing."""
        return self._call(rows.OrderPreview, "preview_order", locals())[0]

    def explain(self, order_id: int, **more: object) -> Rows[rows.Explanation]:
        """Why an order did or did not fill."""
        return self._call(rows.Explanation, "explain_order", locals())

    # --- plans

    def create_sip(
        self,
        symbol: str | None,
        amount: Number,
        frequency: str,
        start: Day,
        *,
        roll: str | None = None,
        catch_up: str | None = None,
        end: Day | None = None,
        instalments: int | None = None,
        step_up_percent: Number | None = None,
        step_up_amount: Number | None = None,
        step_up_every: int | None = None,
        whole_units: bool | None = None,
        auto_pause_after: int | None = None,
        basket: Mapping[str, Number] | None = None,
        rebalance_plan: int | None = None,
        **more: object,
    ) -> int:
        """A SIP; its sip_id. symbol None: basket or rebalance_plan say what it buys."""
        arguments = locals() | {"symbol": NULL if symbol is None else symbol, "basket": _shares(basket)}
        return cast(int, self._value("create_sip", arguments, repeatable=False))

    def change_sip(self, sip_id: int, amount: Number, **more: object) -> None:
        self._value("change_sip", locals())

    def pause_sip(self, sip_id: int, first: Day | None = None, last: Day | None = None, **more: object) -> None:
        """From now on, or its slots of these dates, both included."""
        self._value("pause_sip", {"sip_id": sip_id, "from": first, "to": last, "more": more})

    def resume_sip(self, sip_id: int, first: Day | None = None, last: Day | None = None, **more: object) -> None:
        self._value("resume_sip", {"sip_id": sip_id, "from": first, "to": last, "more": more})

    def end_sip(self, sip_id: int, **more: object) -> None:
        self._value("end_sip", locals())

    def preview_sip(self, sip_id: int, logical_time: Moment | None = None, **more: object) -> Rows[rows.SipPreview]:
        """How the plan's next slot would end. Stores nothing."""
        arguments = locals() | {"logical_time": self._instant(logical_time)}
        return self._call(rows.SipPreview, "preview_sip", arguments)

    def create_rebalance(
        self,
        weights: Mapping[str, Number],
        frequency: str,
        start: Day,
        *,
        band: Number | None = None,
        band_relative: Number | None = None,
        to_band_edge: bool | None = None,
        min_order_value: Number | None = None,
        whole_units: bool | None = None,
        **more: object,
    ) -> int:
        """A rebalance to these shares of equity; its plan_id."""
        return cast(int, self._value("create_rebalance", locals() | {"weights": _shares(weights)}, repeatable=False))

    def end_rebalance(self, plan_id: int, **more: object) -> None:
        self._value("end_rebalance", locals())

    def sips(self) -> Rows[rows.Sip]:
        return self._table(rows.Sip, "sip_plan", "sip_id")

    def sip_schedule(self) -> Rows[rows.SipSlot]:
        """When each SIP has its next slot."""
        return self._call(rows.SipSlot, "sip_schedule", {})

    def rebalances(self) -> Rows[rows.Rebalance]:
        return self._table(rows.Rebalance, "rebalance_plan", "plan_id")

    def target_weights(self) -> Rows[rows.TargetWeight]:
        return self._table(rows.TargetWeight, "target_weight", 'plan_id, symbol collate "C"')

    def rebalance_schedule(self) -> Rows[rows.RebalanceSlot]:
        return self._call(rows.RebalanceSlot, "rebalance_schedule", {})

    # --- limits

    def set_risk_limit(
        self, max_position: Number | None = None, max_order_value: Number | None = None, **more: object
    ) -> None:
        """Units held per symbol, and value of one order; None lifts a limit."""
        self._value("set_risk_limit", locals())

    def forbid_symbol(self, symbol: str, **more: object) -> None:
        self._value("forbid_symbol", locals())

    # --- time

    def tick(self, logical_time: Moment) -> None:
        """Everything that the run owes for that time, once. A date stands for the close of its session."""
        self._pt.do("tick", user_id=self.user_id, run_id=self.run_id, logical_time=self._instant(logical_time))

    def replay(
        self,
        start: Moment | None = None,
        end: Moment | None = None,
        *,
        commit_every: int | None = None,
        progress: Callable[[int, int], object] | None = None,
    ) -> int:
        """Tick at every time of the feed from start (its next) to end (the feed's last); how many times there were.

        In slices, each one transaction (on a connection of yours they are parts of yours); progress(done, all) is
        called after each. What was interrupted goes on from there when it is called again.
        """
        self.info()
        slices = replaying.plan(self._pt.retrying, self.user_id, self.run_id, self._instant(start), self._instant(end))
        times, done = sum(part.times for part in slices), 0
        every = None if commit_every is None else str(commit_every)
        for count in replaying.replay(self._pt, self.user_id, self.run_id, slices, every):
            done += count
            if progress:
                progress(done, times)
        return times

    def stop(self, reason: str | None = None, **more: object) -> None:
        """Stop it for good."""
        self._value("stop_run", locals())

    def fail(self, error: str, **more: object) -> None:
        self._value("fail_run", locals())

    def delete(self) -> None:
        """Delete it with all it owns."""
        self._value("delete_run", {}, repeatable=False)

    def fork(self, at: Moment | None = None, user: User | int | None = None, name: str | None = None) -> Run:
        """A run of another user with this one's history up to its tick at that time (None: its last).

        Without a user one is made, of the name that this run's has.
        """
        moment = self._instant(at)
        with self._pt.transaction():
            owner = self._pt.create_user(self.user.name) if user is None else user
            terms = {"at": NULL if moment is None else moment, "new_user_id": int(owner), "name": name}
            return self._pt.get_run(owner, self._value("fork_run", terms, repeatable=False))

    # --- what came of it

    def orders(self) -> Rows[rows.Order]:
        return self._table(rows.Order, "paper_order", "order_id")

    def trades(self) -> Rows[rows.Trade]:
        return self._table(rows.Trade, "paper_trade", "trade_id")

    def fees(self) -> Rows[rows.TradeFee]:
        """The parts of each trade's fees."""
        return self._table(rows.TradeFee, "trade_fee", 'trade_id, component collate "C", effective_from')

    def positions(self) -> Rows[rows.Position]:
        return self._table(rows.Position, "paper_position", 'symbol collate "C"')

    def cash(self) -> Rows[rows.CashEntry]:
        """The cash ledger; its sum is the cash."""
        return self._table(rows.CashEntry, "cash_ledger", "entry_id")

    def mtm(self) -> Rows[rows.Mark]:
        """The marks that are stored."""
        return self._table(rows.Mark, "mtm_ledger", "logical_time")

    def events(self) -> Rows[rows.Event]:
        return self._table(rows.Event, "event_ledger", 'logical_time, event_type collate "C", event_key collate "C"')

    def lifecycle(self) -> Rows[rows.StatusChange]:
        return self._table(rows.StatusChange, "engine_status", "status_id")

    def equity(self, start: Moment | None = None, end: Moment | None = None) -> Rows[rows.EquityPoint]:
        """Cash, market value and equity at every bar time from start to end, stored or computed."""
        bounds: dict[str, object] = {"from": self._instant(start), "to": self._instant(end)}
        return self._call(rows.EquityPoint, "equity_between", bounds)

    def performance(self) -> Performance:
        """Every metric; `.reasons` says why some have no value."""
        query = """select m.metric, m.value, r.reason
                     from public.performance(%s, %s) with ordinality m (metric, value, n)
                     left join public.performance_reasons(%s, %s) r on r.metric = m.metric order by m.n"""
        found = self._pt.sql(query, *self._key, *self._key)
        return Performance({m: v for m, v, _ in found}, {m: why for m, _, why in found if why is not None})

    def performance_by_symbol(self) -> Rows[rows.SymbolMeasure]:
        return self._call(rows.SymbolMeasure, "performance_by_symbol", {})

    def drawdowns(self) -> Rows[rows.Drawdown]:
        """Every fall of equity below an earlier high, the deepest first."""
        return self._call(rows.Drawdown, "drawdowns", {})

    def digest(self) -> str:
        """SHA-256 over all that it did."""
        return cast(str, self._value("run_digest", {}))

    def report(self, benchmark: str | None = None, compare: Sequence[Run] = ()) -> str:
        """The page that `papertick report --html` writes, as text: all of it in one HTML document.

        `benchmark`: the same capital put into this symbol of its feed, beside it; by default the one symbol that it
        trades. `compare`: other runs shown beside it, at most 19.
        """
        from engine_py.report import gather, page

        own, others = RunKey(self.user_id, self.run_id), [RunKey(run.user_id, run.run_id) for run in compare]
        return page.html(gather.read(self._pt.retrying(lambda conn: gather.gather(conn, own, others, benchmark))))

    def violations(self) -> Rows[rows.Violation]:
        """Its broken invariants: none."""
        return self._call(rows.Violation, "run_violations", {})

    def difference(self, other: Run) -> Rows[rows.Difference]:
        """The rows in which it differs from another run; none when they are identical."""
        key = {"user_a": self.user_id, "run_a": self.run_id, "user_b": other.user_id, "run_b": other.run_id}
        return self._pt.call_rows(rows.Difference, "replay_diff", cast("dict[str, object]", key))

    def stream(self, after: str | None = None, limit: int | None = None, **more: object) -> Rows[rows.StreamItem]:
        """What has happened, item after item, from the one after `after` on."""
        return self._call(rows.StreamItem, "run_stream", locals())

    # --- how it is asked

    @property
    def _key(self) -> tuple[int, int]:
        return self.user_id, self.run_id

    def _call(
        self, kind: type[T] | None, verb: str, arguments: Mapping[str, object], *, repeatable: bool = True
    ) -> Rows[T]:
        given = self._pt.given(verb, {**arguments, "user_id": self.user_id, "run_id": self.run_id})
        for name in ("good_till",):
            if name in given:
                given[name] = self._instant(cast(Any, given[name]))
        return self._pt.call_rows(kind, verb, given, repeatable=repeatable)

    def _value(self, verb: str, arguments: Mapping[str, object], *, repeatable: bool = True) -> Any:
        return self._call(cast(Any, None), verb, arguments, repeatable=repeatable)[0][0]

    def _table(self, kind: type[T], table: LiteralString, order: LiteralString) -> Rows[T]:
        query = sql.SQL("select * from public.{} where user_id = %s and run_id = %s order by {}").format(
            sql.Identifier(table), sql.SQL(order)
        )
        found = self._pt.select(kind, query, self.user_id, self.run_id)
        if not found:
            self.info()
        return found

    def _instant(self, moment: Moment | None) -> str | None:
        has_session = moment is not None and moment is not cast(Any, NULL) and moment_text(moment)[1]
        return self._pt.instant(self.feed if has_session else "", moment)


def _shares(shares: Mapping[str, Number] | None) -> dict[str, object] | None:
    """A number that came as text is a number in JSON too; what is none is for the engine to refuse."""
    return None if shares is None else {symbol: _number(share) for symbol, share in shares.items()}


def _number(share: Number) -> object:
    try:
        return Decimal(share) if isinstance(share, str) else share
    except InvalidOperation:
        return share
