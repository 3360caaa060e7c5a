-- What an order costs besides its price. A fee is always that of the whole order so far: what a fill pays is the fee of
-- the order after it, less what the order has paid before. So a cap or a minimum holds over any number of fills.
set local search_path = public, pg_temp;
set local plpgsql.extra_errors = 'shadowed_variables';

-- The day on which a fill happened, by the market's clock: its rows of the schedule are in force.
create function engine.trade_date(p_time timestamptz, p_time_zone text) returns date
language sql immutable parallel safe return (p_time at time zone p_time_zone)::date;

-- The rows in force, one a component: the product's own before '*', then the latest.
create function engine.fee_rows(p_schedule text, p_symbol text, p_side text, p_date date) returns fee_schedule[]
language plpgsql stable as $$
declare
  v_product text := (select i.product from instrument i where i.symbol = p_symbol);
begin
  return array(
    select r.fee_row
      from (select p_schedule as fee_schedule, p_side as side, v_product as product, p_date as upto offset 0) a
     cross join lateral (
       select distinct on (f.component collate "C") f.component, f as fee_row
         from fee_schedule f
        where f.fee_schedule = a.fee_schedule and f.side = a.side and f.product in ('*', a.product) and f.effective_from <= a.upto
        order by f.component collate "C", f.product = '*', f.effective_from desc) r
     order by r.component collate "C");
end $$;

-- To a multiple of p_unit (null: none) and to the minor unit, half up: fees are not negative. div() is exact.
create function engine.round_to(p_amount numeric, p_unit numeric, p_scale int) returns numeric
language sql immutable parallel safe
return round(coalesce(div(2 * p_amount + p_unit, 2 * p_unit) * p_unit, p_amount), p_scale);

-- What one row charges on p_base: the traded value, or the components it is a percentage of. The maximum is stronger
-- than the minimum, and a share of the value is the strongest: a minimum of 1.00 on a trade of 10.00 that may cost 1 %
-- is 0.10. Basis points are multiplied out: a quotient is rounded, and would then be rounded again.
create function engine.fee_amount(p_row fee_schedule, p_quantity numeric, p_base numeric, p_value numeric, p_scale int) returns numeric
language sql immutable
return engine.round_to(
  least(greatest(p_base * (p_row).rate_bps * 0.0001 + p_quantity * (p_row).per_unit_amount + (p_row).flat_amount, (p_row).minimum_amount),
        (p_row).maximum_amount, p_value * (p_row).maximum_bps * 0.0001),
  (p_row).round_to, p_scale);

-- Percentages come last, of the others as they are charged. Nothing traded, nothing charged.
create function engine.fees_by(p_rows fee_schedule[], p_quantity numeric, p_value numeric, p_scale int) returns engine.fee[]
language plpgsql immutable as $$
declare
  r fee_schedule;
  v_on_value engine.fee[] := '{}'::engine.fee[];
  v_fees engine.fee[];
begin
  if p_quantity = 0 then
    return v_on_value;
  end if;
  foreach r in array p_rows loop
    if r.of_components is null then
      v_on_value := v_on_value || row(r.component, engine.fee_amount(r, p_quantity, p_value, p_value, p_scale),
                                      r.product, r.effective_from)::engine.fee;
    end if;
  end loop;

  v_fees := v_on_value;
  foreach r in array p_rows loop
    if r.of_components is not null then
      v_fees := v_fees || row(r.component, engine.fee_amount(r, p_quantity,
        (select coalesce(sum(f.amount), 0) from unnest(v_on_value) f where f.component = any (r.of_components)), p_value, p_scale),
                              r.product, r.effective_from)::engine.fee;
    end if;
  end loop;
  return array(select f from unnest(v_fees) f where f.amount > 0 order by f.component collate "C");
end $$;

-- The fees of an order that has traded p_quantity units for p_value so far, by component; p_value is the sum of
-- engine.value of its fills, as cash has moved. None without a schedule.
create function engine.fees_of(
  p_schedule text, p_symbol text, p_side text, p_date date, p_quantity numeric, p_value numeric, p_scale int
) returns engine.fee[]
language plpgsql stable as $$
begin
  if p_schedule is null then
    return '{}'::engine.fee[];
  end if;
  return engine.fees_by(engine.fee_rows(p_schedule, p_symbol, p_side, p_date), p_quantity, p_value, p_scale);
end $$;

-- What is still to be charged of p_total when p_charged has been, in however many parts. A fee that has become less,
-- by a new rate, is not paid back.
create function engine.fees_due(p_total engine.fee[], p_charged engine.fee[]) returns engine.fee[]
language plpgsql immutable as $$
begin
  return array(
    select row(t.component, t.amount - c.amount, t.product, t.effective_from)::engine.fee
      from unnest(p_total) t
     cross join lateral (select coalesce(sum(c.amount), 0) as amount from unnest(p_charged) c where c.component = t.component) c
     where t.amount > c.amount
     order by t.component collate "C");
end $$;

create function engine.fee_sum(p_fees engine.fee[]) returns numeric
language sql immutable return (select coalesce(sum(f.amount), 0) from unnest(p_fees) f);

-- What a fill is charged; p_order_id: the order that it belongs to, null for a new one. Earlier fills of it are posted.
create function engine.fill_fees(
  c engine.context, p_order_id bigint, p_symbol text, p_side text, p_time timestamptz, p_quantity numeric, p_price numeric
) returns engine.fee[]
language plpgsql stable as $$
declare
  v_quantity numeric;
  v_value numeric;
  v_charged engine.fee[];
begin
  if (c.terms).fee_schedule is null then
    return null;
  end if;
  select coalesce(sum(t.quantity), 0), coalesce(sum(engine.value(t.quantity, t.price, c.scale)), 0) into v_quantity, v_value
    from paper_trade t where t.user_id = c.user_id and t.run_id = c.run_id and t.order_id = p_order_id;
  if v_quantity > 0 then
    v_charged := array(
      select row(e.component, e.amount, e.product, e.effective_from)::engine.fee
        from paper_trade t
        join trade_fee e on e.user_id = t.user_id and e.run_id = t.run_id and e.trade_id = t.trade_id
       where t.user_id = c.user_id and t.run_id = c.run_id and t.order_id = p_order_id);
  end if;
  return engine.fees_due(
    engine.fees_of((c.terms).fee_schedule, p_symbol, p_side, engine.trade_date(p_time, c.time_zone), v_quantity + p_quantity,
                   v_value + engine.value(p_quantity, p_price, c.scale), c.scale), v_charged);
end $$;

-- What p_quantity units at p_price cost, fees included. The value is not rounded: the bound of engine.units_for.
create function engine.cost_by(p_rows fee_schedule[], p_quantity numeric, p_price numeric, p_scale int) returns numeric
language sql immutable
return p_quantity * p_price + engine.fee_sum(engine.fees_by(p_rows, p_quantity, engine.value(p_quantity, p_price, p_scale), p_scale));

-- The most units on the step that p_money pays for in one order, fees included: exactly, since no fee falls when the
-- quantity grows. A schedule that charges nothing buys what units_for does; with p_money in minor units the rounded
-- value fits as well. v_low always fits and nothing above v_high does. Each narrows the other: fewer units than v_high
-- pay at most its fees, more than v_low at least its own; where fees jump, halving goes on.
create function engine.units_within(
  p_money numeric, p_price numeric, p_step numeric, p_schedule text, p_symbol text, p_side text, p_date date, p_scale int
) returns numeric
language plpgsql stable as $$
declare
  v_rows fee_schedule[];
  v_low numeric := 0::numeric;
  v_high numeric := engine.units_for(p_money, p_price, p_step);
  v_middle numeric;
  v_cost numeric;
begin
  if p_schedule is null or v_high <= 0 then
    return v_high;
  end if;
  v_rows := engine.fee_rows(p_schedule, p_symbol, p_side, p_date);
  while v_high > v_low loop
    v_cost := engine.cost_by(v_rows, v_high, p_price, p_scale);
    exit when v_cost <= p_money;
    v_low := greatest(v_low, engine.units_for(p_money - v_cost + v_high * p_price, p_price, p_step));
    v_cost := engine.cost_by(v_rows, v_low, p_price, p_scale);
    v_high := least(v_high - p_step, engine.units_for(p_money - v_cost + v_low * p_price, p_price, p_step));
    v_middle := v_low + engine.floor_to((v_high - v_low) * 0.5, p_step);
    if v_middle > v_low then
      if engine.cost_by(v_rows, v_middle, p_price, p_scale) <= p_money then
        v_low := v_middle;
      else
        v_high := v_middle - p_step;
      end if;
    end if;
  end loop;
  return v_high;
end $$;

-- BEFORE INSERT of a fee_schedule row. What a percentage is of must be known before any percentage is, so none is of
-- another. The lock is a statement of its own: two sessions could each miss the other's row.
create function engine.guard_fee_row() returns trigger
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
  perform pg_advisory_xact_lock(hashtextextended('fee_schedule:' || new.fee_schedule, 0));
  if exists (select from public.fee_schedule f
              where f.fee_schedule = new.fee_schedule
                and (f.of_components is not null and f.component = any (new.of_components)
                     or new.of_components is not null and new.component = any (f.of_components))) then
    perform engine.refuse('TE101', format('argument=of_components fee_schedule=%s component=%s must_be=no_percentages',
                                          new.fee_schedule, new.component));
  end if;
  return new;
end $$;

-- BEFORE UPDATE of a fee_schedule row: never, since trades point at it.
create function engine.guard_fee_update() returns trigger
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
  perform engine.refuse('TE004', format('table=fee_schedule fee_schedule=%s component=%s effective_from=%s',
                                        old.fee_schedule, old.component, to_char(old.effective_from, 'YYYY-MM-DD')));
  return null;
end $$;

-- BEFORE DELETE of a fee_schedule row: not while a run names the schedule, which would trade on without it. A run that
-- starts has locked the rows (add_run), so one of the two waits and sees the other.
create function engine.guard_fee_delete() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
  if exists (select from public.strategy_run r where r.fee_schedule = old.fee_schedule) then
    perform engine.refuse('TE004', format('table=fee_schedule fee_schedule=%s component=%s effective_from=%s',
                                          old.fee_schedule, old.component, to_char(old.effective_from, 'YYYY-MM-DD')));
  end if;
  return old;
end $$;
