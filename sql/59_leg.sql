-- Legs: what a SIP's money buys. One symbol, the shares of a basket, or what a rebalance plan wants most. Nothing here is
-- given the context: it is large, and a call copies it.
set local search_path = public, pg_temp;
set local plpgsql.extra_errors = 'shadowed_variables';

-- One symbol that a plan buys: its share (in a basket) or weight (in a rebalance plan) and the price at this tick, null if
-- there is none yet; for one slot its money and what that buys.
create type engine.leg as (symbol text, share numeric, price numeric, money numeric, quantity numeric);

create function engine.buying_step(p_symbol text, p_is_whole boolean) returns numeric
language plpgsql stable as $$
begin
  return (select case when p_is_whole then engine.whole_step(i.quantity_step) else i.quantity_step end from instrument i where i.symbol = p_symbol);
end $$;

-- What a plan would buy at this tick, in the order of symbols; null while one has no price.
create function engine.sip_legs(p_plan sip_plan, p_feed text, p_time timestamptz, p_max_age interval) returns engine.leg[]
language plpgsql stable as $$
declare
  v record;
  g engine.leg;
  v_legs engine.leg[];
begin
  for v in
    select s.symbol, s.share
      from (select p_plan.symbol as symbol, 1::numeric as share where p_plan.symbol is not null
            union all
            select b.key, b.value::numeric from jsonb_each(p_plan.basket) b
            union all
            select w.symbol, w.weight from target_weight w
             where w.user_id = p_plan.user_id and w.run_id = p_plan.run_id and w.plan_id = p_plan.rebalance_plan_id and w.weight > 0) s
     order by s.symbol collate "C"
  loop
    g.symbol := v.symbol;
    g.share := v.share;
    g.price := engine.tradable_close(p_feed, v.symbol, p_time, p_max_age);
    if g.price is null then
      return null;
    end if;
    v_legs := v_legs || g;
  end loop;
  return v_legs;
end $$;

-- The legs that the new money should go to so that holdings come nearer to a rebalance plan's weights, most wanting
-- first. What a symbol wants is its weight's part of what the plan's symbols are worth, p_money included, less what is
-- held of it. Cash is not part of it, nor the share that the weights leave in cash: else a run that begins with much cash
-- would buy nothing but its heaviest symbol for years. All that is wanted is at least p_money, so that all of it is spent.
create function engine.wanting_legs(p_legs engine.leg[], p_money numeric, p_symbols text[], p_quantities numeric[], p_scale int)
returns engine.leg[]
language plpgsql immutable as $$
begin
  return (
    select coalesce(array_agg(row(w.symbol, w.share, w.price, round(w.wanted / w.shares, p_scale), null)::engine.leg
                              order by w.wanted desc, w.symbol collate "C"), '{}')
      from (select l.*, sum(l.share) over () as shares,
                   -- times shares, so that nothing is divided before it is compared
                   l.share * (p_money + sum(l.held) over ()) - l.held * sum(l.share) over () as wanted
              from (select g.symbol, g.share, g.price, engine.value(coalesce(p.quantity, 0), g.price, p_scale) as held
                      from unnest(p_legs) g
                      left join unnest(p_symbols, p_quantities) p (symbol, quantity) on p.symbol = g.symbol) l) w
     where w.wanted > 0);
end $$;

-- Split a slot's money over the legs: a basket's have their shares, a rebalance plan's what they want, as long as there is
-- money. The last one has what is left, so that no cent is lost.
create function engine.split_money(
  p_plan sip_plan, p_legs engine.leg[], p_money numeric, p_symbols text[], p_quantities numeric[], p_scale int
) returns engine.leg[]
language plpgsql immutable as $$
declare
  g engine.leg;
  v_left numeric := p_money;
begin
  if p_plan.rebalance_plan_id is not null then
    p_legs := engine.wanting_legs(p_legs, p_money, p_symbols, p_quantities, p_scale);
  end if;
  for i in 1 .. cardinality(p_legs) loop
    g := p_legs[i];
    g.money := case when i = cardinality(p_legs) then v_left else least(coalesce(g.money, round(p_money * g.share, p_scale)), v_left) end;
    v_left := v_left - g.money;
    p_legs[i] := g;
  end loop;
  return p_legs;
end $$;

-- What the event of a slot with several legs says besides: the orders, or the symbol that the reason is about.
create function engine.legs_payload(p_event_type text, p_reason text, p_symbol text, p_first_order_id bigint, p_count int) returns jsonb
language plpgsql immutable as $$
begin
  return case
    when p_reason is not null then jsonb_build_object('symbol', p_symbol)
    when p_event_type = 'SIP_EXECUTED' then jsonb_build_object('orders', (
      select jsonb_agg(p_first_order_id + n order by n) from generate_series(0, p_count - 1) n))
    else '{}'
  end;
end $$;
