-- Legs: what a SIP's money buys. One symbol, the shares of a basket, or what a rebalance plan wants most.
set local search_path = public, pg_temp;
set local plpgsql.extra_errors = 'shadowed_variables';

-- One symbol that a plan buys: its share (in a basket) or weight (in a rebalance plan), at this tick its price and the
-- step of its quantity, and for one slot its money and what that buys.
create type engine.leg as (symbol text, share numeric, price numeric, step numeric, money numeric, quantity numeric);

create function engine.leg_at(c engine.context, p_symbol text, p_share numeric, p_is_whole boolean, p_time timestamptz) returns engine.leg
language plpgsql stable as $$
declare
  g engine.leg;
begin
  g.symbol := p_symbol;
  g.share := p_share;
  g.price := engine.last_close(c.feed, p_symbol, p_time);
  if g.price is not null then
    select case when p_is_whole then engine.whole_step(i.quantity_step) else i.quantity_step end
      into strict g.step from instrument i where i.symbol = p_symbol;
  end if;
  return g;
end $$;

-- What a plan buys at this tick, in the order of symbols; null while one of them has no price.
create function engine.sip_legs(c engine.context, p_plan sip_plan, p_time timestamptz) returns engine.leg[]
language plpgsql stable as $$
declare
  v record;
  g engine.leg;
  v_legs engine.leg[];
begin
  if p_plan.symbol is not null then
    g := engine.leg_at(c, p_plan.symbol, 1, p_plan.whole_units, p_time);
    return case when g.price is not null then array[g] end;
  end if;
  for v in
    select s.symbol, s.share
      from (select b.key as symbol, b.value::numeric as share from jsonb_each(p_plan.basket) b
            union all
            select w.symbol, w.weight from target_weight w
             where w.user_id = c.user_id and w.run_id = c.run_id and w.plan_id = p_plan.rebalance_plan_id and w.weight > 0) s
     order by s.symbol collate "C"
  loop
    g := engine.leg_at(c, v.symbol, v.share, p_plan.whole_units, p_time);
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
create function engine.wanting_legs(c engine.context, p_legs engine.leg[], p_money numeric) returns engine.leg[]
language plpgsql immutable as $$
begin
  return (
    select coalesce(array_agg(row(w.symbol, w.share, w.price, w.step, round(w.wanted / w.shares, c.scale), null)::engine.leg
                              order by w.wanted desc, w.symbol collate "C"), '{}')
      from (select l.*, sum(l.share) over () as shares,
                   -- times shares, so that nothing is divided before it is compared
                   l.share * (p_money + sum(l.held) over ()) - l.held * sum(l.share) over () as wanted
              from (select g.symbol, g.share, g.price, g.step, engine.value(coalesce(p.quantity, 0), g.price, c.scale) as held
                      from unnest(p_legs) g
                      left join unnest(c.symbols, c.quantities) p (symbol, quantity) on p.symbol = g.symbol) l) w
     where w.wanted > 0);
end $$;

-- Split a slot's money over the legs, and see what each part buys. One symbol has it all; a basket's have their shares, a
-- rebalance plan's what they want, as long as there is money. The last one has what is left, so that no cent is lost.
create function engine.split_money(c engine.context, p_legs engine.leg[], p_money numeric) returns engine.leg[]
language plpgsql immutable as $$
declare
  g engine.leg;
  v_left numeric := p_money;
begin
  if (c.sip).rebalance_plan_id is not null then
    p_legs := engine.wanting_legs(c, p_legs, p_money);
  end if;
  for i in 1 .. cardinality(p_legs) loop
    g := p_legs[i];
    g.money := case when i = cardinality(p_legs) then v_left else least(coalesce(g.money, round(p_money * g.share, c.scale)), v_left) end;
    g.quantity := engine.units_for(g.money, g.price, g.step);
    v_left := v_left - g.money;
    p_legs[i] := g;
  end loop;
  return p_legs;
end $$;
