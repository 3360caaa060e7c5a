-- Verbs about market data. They pass the same gate as those in 96_verbs.
set local search_path = public, pg_temp;
set local plpgsql.extra_errors = 'shadowed_variables';

create or replace function feed_digest(p_feed text) returns text
language plpgsql stable security definer set search_path = public, pg_temp set jit = off as $$
begin
  perform from public.strategy_run where false;
  return engine.feed_digest(p_feed);
end $$;
comment on function feed_digest is 'feed_digest(feed) → SHA-256, in hex, over the feed''s bars in order of symbol and time: equal for equal bars, on any server, whatever they were loaded from. Calendar and adjusted are not in it. TE201.';
