-- Orders that depend on each other: one cancels other, and one that replaces another. And how an order is canceled.
set local search_path = public, pg_temp;
set local plpgsql.extra_errors = 'shadowed_variables';

-- The p_number-th order of a pair: they hold back cash once, for the dearer of the two, and what rejects one rejects both.
create function engine.paired(
  o paper_order, p_oco_id bigint, p_number int, p_reserve_price numeric, p_reason text, p_time timestamptz
) returns paper_order
language plpgsql immutable as $$
begin
  o.order_id := p_oco_id + p_number - 1;
  o.oco_id := p_oco_id;
  o.reserve_price := p_reserve_price;
  if p_reason is not null then
    o.status := 'REJECTED';
    o.reject_reason := p_reason;
    o.closed_time := p_time;
  end if;
  return o;
end $$;

-- The limit and the stop of a pair lie on either side of the price.
create function engine.require_apart(p_side text, p_limit_price numeric, p_stop_price numeric) returns void
language plpgsql as $$
begin
  perform engine.require(case p_side when 'BUY' then p_limit_price < p_stop_price else p_limit_price > p_stop_price end,
                         'argument=limit_price,stop_price must_be=on_either_side_of_the_price');
end $$;

-- Two exits or entries that share one quantity: what one fills the other loses, and the end of one is the end of the
-- other. Accepted or rejected together; the limit order carries the client_order_id.
-- writes: paper_order
create function engine.place_oco(
  p_user_id bigint, p_run_id bigint, p_symbol text, p_side text, p_quantity numeric, p_limit_price numeric,
  p_stop_price numeric, p_stop_limit_price numeric, p_time_in_force text, p_client_order_id text, p_good_till timestamptz
) returns setof paper_order
language plpgsql as $$
declare
  v_stop_type constant text := case when p_stop_limit_price is null then 'STOP' else 'STOP_LIMIT' end;
  c engine.context;
  l paper_order;
  s paper_order;
  v_stored paper_order;
  v_reason text;
begin
  perform engine.require_order_terms(p_symbol, p_side, p_quantity, 'LIMIT', p_limit_price, null, p_time_in_force, p_client_order_id, null, null, p_good_till);
  perform engine.require_order_terms(p_symbol, p_side, p_quantity, v_stop_type, p_stop_limit_price, p_stop_price, p_time_in_force, p_client_order_id, null, null, p_good_till);
  perform engine.require(p_time_in_force not in ('IOC', 'FOK'), 'argument=time_in_force must_be=DAY|GTC|GTD');
  perform engine.require_apart(p_side, p_limit_price, p_stop_price);
  l.symbol := p_symbol;
  l.side := p_side;
  l.time_in_force := p_time_in_force;
  l.good_till := p_good_till;
  s := l;
  l.order_type := 'LIMIT';
  l.limit_price := p_limit_price;
  l.client_order_id := p_client_order_id;
  s.order_type := v_stop_type;
  s.stop_price := p_stop_price;
  s.limit_price := p_stop_limit_price;

  c := engine.open_run(p_user_id, p_run_id);
  if p_client_order_id is not null then
    l.client_terms := engine.terms_of(l, p_quantity) || jsonb_build_object('pair', jsonb_build_array(p_stop_price, p_stop_limit_price));
    select * into v_stored from paper_order o where o.user_id = p_user_id and o.run_id = p_run_id and o.client_order_id = p_client_order_id;
    if found then
      perform engine.require_same_terms(v_stored, l.client_terms);
      return query select o.* from paper_order o
        where o.user_id = p_user_id and o.run_id = p_run_id and o.order_id in (v_stored.order_id, v_stored.order_id + 1) order by o.order_id;
      return;
    end if;
  end if;
  perform engine.require_running(c);
  l := engine.judged(c, l, p_quantity);
  s := engine.judged(c, s, p_quantity);
  v_reason := coalesce(l.reject_reason, s.reject_reason);
  s := engine.paired(s, l.order_id, 2, greatest(l.reserve_price, s.reserve_price), v_reason, c.last_logical_time);
  l := engine.paired(l, l.order_id, 1, s.reserve_price, v_reason, c.last_logical_time);
  insert into paper_order select (l).*;
  insert into paper_order select (s).*;
  return next l;
  return next s;
end $$;

-- The same order with other terms; what is null stays.
create function engine.with_terms(
  o paper_order, p_limit_price numeric, p_stop_price numeric, p_client_order_id text, p_time_in_force text, p_trail_amount numeric,
  p_trail_percent numeric, p_good_till timestamptz
) returns paper_order
language plpgsql immutable as $$
begin
  o.limit_price := coalesce(p_limit_price, o.limit_price);
  o.stop_price := coalesce(p_stop_price, case when o.order_type <> 'TRAILING_STOP' then o.stop_price end);
  o.time_in_force := coalesce(p_time_in_force, o.time_in_force);
  o.good_till := case when o.time_in_force = 'GTD' then coalesce(p_good_till, o.good_till) else p_good_till end;
  if num_nonnulls(p_trail_amount, p_trail_percent) > 0 then
    o.trail_amount := p_trail_amount;
    o.trail_percent := p_trail_percent;
  end if;
  o.client_order_id := p_client_order_id;
  o.replaces_order_id := o.order_id;
  o.triggered_time := null;
  o.seen_time := null;
  o.avg_fill_price := null;
  return o;
end $$;

-- At which price the other order of a pair would hold back if it were accepted now, like the one that takes its partner's
-- place: what is stored is the dearer of the two, and the dearer may be the one that goes.
create function engine.partner_price(c engine.context, p_old paper_order, p_left numeric, p_released_cash numeric) returns numeric
language plpgsql stable as $$
declare
  o paper_order;
begin
  select * into o from paper_order x
   where x.user_id = c.user_id and x.run_id = c.run_id and x.oco_id = p_old.oco_id and x.order_id <> p_old.order_id
     and x.status in ('PENDING', 'TRIGGERED', 'PARTIALLY_FILLED');
  o.good_till := null;   -- it stands already
  return (engine.judged(c, o, p_left, p_released_cash, p_left)).reserve_price;
end $$;

-- One of a pair may be replaced by what leaves them a pair: the quantity that they share, one life, and prices on either
-- side. An exit that has lost its other, or never had one, may live as it likes.
create function engine.require_leg(p_old paper_order, o paper_order, p_quantity numeric) returns void
language plpgsql as $$
declare
  v_other paper_order;
begin
  if p_old.oco_id is null then
    return;
  end if;
  perform engine.require(p_quantity = p_old.quantity - p_old.filled_quantity, 'argument=quantity must_be=unchanged_for_one_of_a_pair');
  select * into v_other from paper_order x
   where x.user_id = p_old.user_id and x.run_id = p_old.run_id and x.oco_id = p_old.oco_id and x.order_id <> p_old.order_id
     and x.status in ('PENDING', 'TRIGGERED', 'PARTIALLY_FILLED') order by x.order_id limit 1;
  if found then
    perform engine.require((o.time_in_force, o.good_till) is not distinct from (p_old.time_in_force, p_old.good_till),
                           'argument=time_in_force,good_till must_be=unchanged_for_one_of_a_pair');
    if o.order_type = 'LIMIT' then
      perform engine.require_apart(o.side, o.limit_price, v_other.stop_price);
    else
      perform engine.require_apart(o.side, v_other.limit_price, o.stop_price);
    end if;
  end if;
end $$;

-- A new order with other terms in place of an open one, which is canceled in the same moment; p_quantity null: what is
-- left of it. If the new one cannot be accepted it is stored REJECTED, and the old one stays.
-- writes: paper_order
create function engine.replace_order(
  p_user_id bigint, p_run_id bigint, p_order_id bigint, p_quantity numeric, p_limit_price numeric, p_stop_price numeric,
  p_client_order_id text, p_time_in_force text, p_trail_amount numeric, p_trail_percent numeric, p_good_till timestamptz
) returns paper_order
language plpgsql as $$
declare
  c engine.context := engine.open_run(p_user_id, p_run_id);
  v_old paper_order;
  v_stored paper_order;
  o paper_order;
  v_terms jsonb;
  v_left numeric;
  v_quantity numeric;
begin
  select * into v_old from paper_order x where x.user_id = p_user_id and x.run_id = p_run_id and x.order_id = p_order_id;
  perform engine.require(found, format('argument=order_id value=%s must_be=an_order_of_the_run', p_order_id));
  if p_client_order_id is not null then
    v_terms := jsonb_strip_nulls(jsonb_build_object(
      'replaces_order_id', p_order_id, 'quantity', p_quantity, 'limit_price', p_limit_price, 'stop_price', p_stop_price, 'time_in_force', p_time_in_force,
      'trail_amount', p_trail_amount, 'trail_percent', p_trail_percent, 'good_till', extract(epoch from p_good_till)));
    select * into v_stored from paper_order x where x.user_id = p_user_id and x.run_id = p_run_id and x.client_order_id = p_client_order_id;
    if found then
      perform engine.require_same_terms(v_stored, v_terms);
      return v_stored;
    end if;
  end if;
  v_left := v_old.quantity - v_old.filled_quantity;
  v_quantity := coalesce(p_quantity, v_left);
  perform engine.require_prices(p_limit_price, p_stop_price, p_trail_amount, p_trail_percent);
  perform engine.require_life(coalesce(p_time_in_force, v_old.time_in_force));
  o := engine.with_terms(v_old, p_limit_price, p_stop_price, p_client_order_id, p_time_in_force, p_trail_amount, p_trail_percent, p_good_till);
  perform engine.require_order_terms(o.symbol, o.side, v_quantity, o.order_type, o.limit_price, o.stop_price, o.time_in_force,
                                     p_client_order_id, o.trail_amount, o.trail_percent, o.good_till);
  perform engine.require_exits(o.side, o.limit_price, o.take_profit_price, o.stop_loss_price, o.stop_loss_limit_price);
  o.client_terms := v_terms;

  perform engine.require_running(c);
  perform engine.require(v_old.status in ('PENDING', 'TRIGGERED', 'PARTIALLY_FILLED'), format('argument=order_id value=%s must_be=an_open_order', p_order_id));
  perform engine.require_leg(v_old, o, v_quantity);

  o := engine.judged(c, o, v_quantity, engine.reservation(v_left, v_old.reserve_price, c.scale), v_left);
  o.reserve_price := case when o.parent_order_id is null then o.reserve_price end;
  if o.status = 'PENDING' then
    if o.oco_id is not null and o.parent_order_id is null then
      -- the pair still holds back once, for the dearer of the two
      o.reserve_price := greatest(o.reserve_price, engine.partner_price(c, v_old, v_left, engine.reservation(v_left, v_old.reserve_price, c.scale)));
      update paper_order x set reserve_price = o.reserve_price
       where x.user_id = p_user_id and x.run_id = p_run_id and x.oco_id = o.oco_id and x.order_id <> p_order_id   -- which keeps what it was
         and x.status in ('PENDING', 'TRIGGERED', 'PARTIALLY_FILLED');
    end if;
    update paper_order x set status = 'CANCELED', closed_time = c.last_logical_time, seen_time = null
     where x.user_id = p_user_id and x.run_id = p_run_id and x.order_id = p_order_id;
  end if;
  insert into paper_order select (o).*;
  return o;
end $$;

-- One order of a pair takes the other with it.
-- writes: paper_order
create function engine.cancel_order(p_user_id bigint, p_run_id bigint, p_order_id bigint) returns paper_order
language plpgsql as $$
declare
  c engine.context := engine.open_run(p_user_id, p_run_id);
  v_order paper_order;
begin
  perform engine.require_running(c);
  select * into v_order from paper_order o
   where o.user_id = p_user_id and o.run_id = p_run_id and o.order_id = p_order_id;
  perform engine.require(found, format('argument=order_id value=%s must_be=an_order_of_the_run', p_order_id));
  if v_order.status not in ('PENDING', 'TRIGGERED', 'PARTIALLY_FILLED') then
    return v_order;
  end if;
  update paper_order o set status = 'CANCELED', closed_time = c.last_logical_time, seen_time = null
   where o.user_id = p_user_id and o.run_id = p_run_id and o.order_id = p_order_id
  returning * into v_order;
  if v_order.oco_id is not null then
    update paper_order o set status = 'CANCELED', closed_time = c.last_logical_time, seen_time = null
     where o.user_id = p_user_id and o.run_id = p_run_id and o.oco_id = v_order.oco_id
       and o.status in ('PENDING', 'TRIGGERED', 'PARTIALLY_FILLED');
  end if;
  return v_order;
end $$;
