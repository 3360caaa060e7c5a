-- What a run has gained, by where it comes from.
set local search_path = public, pg_temp;
set local plpgsql.extra_errors = 'shadowed_variables';

-- Where the gain comes from: parts that make up equity less external flows (engine.is_external) to the last digit. Cash in
-- lieu of a fraction is booked as realized; here it stands apart, less what the fraction had cost. OTHER: what is left
-- where the parts are of different times or units have no known cost.
create function engine.gain_rows(p_user_id bigint, p_run_id bigint) returns table (place int, kind text, amount numeric)
language plpgsql stable as $$
declare
  c engine.curve := engine.read_ends(p_user_id, p_run_id);
begin
  return query
  with known as (
    select m.metric, (m.measure).value from engine.account_measures(c, engine.total_of(c)) m
  ), lieu as (
    select sum(coalesce((e.payload ->> 'cash_in_lieu')::numeric, 0) - coalesce((e.payload ->> 'cost')::numeric, 0)) as amount
      from event_ledger e where e.user_id = p_user_id and e.run_id = p_run_id and e.event_type = 'SPLIT'
  ), part as (
    select 1 as place, 'REALIZED' as kind, k.value - coalesce(f.amount, 0) as amount from known k cross join lieu f where k.metric = 'realized_pnl'
    union all
    select 2, 'UNREALIZED', k.value from known k where k.metric = 'unrealized_pnl'
    union all
    select 4, 'CASH_IN_LIEU', f.amount from lieu f where f.amount <> 0
    union all
    select case l.cause when 'DIVIDEND' then 3 else 5 end, l.cause, sum(l.amount) from cash_ledger l
     where l.user_id = p_user_id and l.run_id = p_run_id and l.logical_time <= c.upto
       and not engine.is_external(l.cause) and l.cause not in ('TRADE', 'CASH_IN_LIEU') group by l.cause
  ), whole as (
    select e.value - f.value as amount from known e cross join known f where e.metric = 'equity' and f.metric = 'funded'
  ), row as (
    select r.place, r.kind, r.amount from part r where r.amount is not null
    union all
    select 6, 'OTHER', w.amount - coalesce((select sum(r.amount) from part r), 0) from whole w
  )
  select (row_number() over (order by r.place, r.kind collate "C"))::int, r.kind, trim_scale(r.amount)
    from row r cross join whole w
   where w.amount is not null and (r.kind <> 'OTHER' or r.amount <> 0)
   order by 1;
end $$;
