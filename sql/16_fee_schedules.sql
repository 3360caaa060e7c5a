-- DURABLE. Fee schedules to start from: ZERO, US_PER_SHARE (US dollars), IN_DELIVERY and IN_INTRADAY (rupees).
-- A rate that changes is a new row with a later date; a schedule of one's own is rows under another name.
-- Everything here is second-hand: taken in November 2026 from brokers' pages, the press and public code that name the
-- document in `source`, which itself was not read. Read it before real money depends on a rate.
set local search_path = public, pg_temp;

insert into fee_schedule (fee_schedule, component, side, effective_from, source)
select 'ZERO', 'COMMISSION', s.side, '1900-01-01', 'by definition: charges nothing'
  from (values ('BUY'), ('SELL')) s (side);

-- US_PER_SHARE. The commission is a broker's list price; its first day is not known, so it holds for all times.
insert into fee_schedule (fee_schedule, component, side, effective_from, per_unit_amount, minimum_amount, maximum_bps, source)
select 'US_PER_SHARE', 'COMMISSION', s.side, '1900-01-01', 0.005, 1.00, 100,
       'Interactive Brokers, US stocks, Fixed: USD 0.005 a share, at least 1.00 an order, at most 1 % of trade value (price list, 2024)'
  from (values ('BUY'), ('SELL')) s (side);

-- Section 31 of the Securities Exchange Act, on sales: dollars a million, so 1.00 is 0.01 basis points.
insert into fee_schedule (fee_schedule, component, side, effective_from, rate_bps, source)
select 'US_PER_SHARE', 'SEC', 'SELL', r.effective_from::date, r.per_million / 100,
       format('Exchange Act section 31: USD %s a million from %s (SEC %s)', r.per_million, r.effective_from, r.document)
  from (values
    ('2014-03-18', 22.10, 'release 34-71556'),
    ('2015-02-14', 18.40, 'release 34-74070'),
    ('2016-02-16', 21.80, 'release 34-76852'),
    ('2017-07-04', 23.10, 'release 34-80830'),
    ('2018-05-22', 13.00, 'release 34-83083'),
    ('2019-04-16', 20.70, 'release 34-85377'),
    ('2020-02-18', 22.10, 'release 34-88062'),
    ('2021-02-25', 5.10, 'release 34-90924'),
    ('2022-05-14', 22.90, 'release 34-94420'),
    ('2023-02-27', 8.00, 'release 34-96724'),
    ('2024-05-22', 27.80, 'release 34-99973'),
    ('2025-05-14', 0.00, 'release 34-102779'),
    ('2026-04-04', 20.60, 'release 34-104909')) r (effective_from, per_million, document);

-- FINRA's Trading Activity Fee, on sales. FINRA rounds up to the cent; here it is rounded like all money.
insert into fee_schedule (fee_schedule, component, side, effective_from, per_unit_amount, maximum_amount, source)
select 'US_PER_SHARE', 'TAF', 'SELL', r.effective_from::date, r.per_share, r.cap,
       format('FINRA By-Laws, Schedule A, section 1: USD %s a share, at most %s a trade, from %s (%s)', r.per_share, r.cap, r.effective_from, r.document)
  from (values
    ('2012-07-01', 0.000119, 5.95, 'Regulatory Notice 12-31'),
    ('2022-01-01', 0.000130, 6.49, 'SR-FINRA-2020-032'),
    ('2023-01-01', 0.000145, 7.27, 'SR-FINRA-2020-032'),
    ('2024-01-01', 0.000166, 8.30, 'SR-FINRA-2020-032'),
    ('2026-01-01', 0.000195, 9.79, 'SR-FINRA-2024-019')) r (effective_from, per_share, cap, document);

-- IN_DELIVERY, IN_INTRADAY: shares on NSE at a discount broker. Complete from 2020-07-01 on; before, each state had a
-- stamp duty of its own. ₹10 a crore is 0.01 basis points.
insert into fee_schedule (fee_schedule, component, side, effective_from, rate_bps, maximum_amount, source)
select r.fee_schedule, 'BROKERAGE', s.side, r.effective_from::date, r.rate_bps, r.maximum_amount, r.source
  from (values
    ('IN_DELIVERY', '2015-12-01', 0, null, 'Zerodha: delivery is free since 2015-12-01 (Z-Connect, 2015-11-30)'),
    ('IN_INTRADAY', '2020-07-01', 3, 20, 'Zerodha: 0.03 % or ₹20 an executed order, the lower (charges, 2024); first day not known')
  ) r (fee_schedule, effective_from, rate_bps, maximum_amount, source)
 cross join (values ('BUY'), ('SELL')) s (side);

-- Securities transaction tax, to the rupee. Equity-oriented funds, ETFs among them, pay another one on delivery.
insert into fee_schedule (fee_schedule, component, product, side, effective_from, rate_bps, round_to, source)
values
  ('IN_DELIVERY', 'STT', '*', 'BUY', '2012-07-01', 10, 1, 'Finance Act 2012: 0.1 % on delivery, from 2012-07-01; nearest rupee'),
  ('IN_DELIVERY', 'STT', '*', 'SELL', '2012-07-01', 10, 1, 'Finance Act 2012: 0.1 % on delivery, from 2012-07-01; nearest rupee'),
  ('IN_DELIVERY', 'STT', 'ETF', 'BUY', '2013-06-01', 0, 1, 'Finance Act 2013: nil on the purchase of equity-oriented fund units, from 2013-06-01'),
  ('IN_DELIVERY', 'STT', 'ETF', 'SELL', '2013-06-01', 0.1, 1, 'Finance Act 2013: 0.001 % on the sale of equity-oriented fund units, from 2013-06-01'),
  ('IN_INTRADAY', 'STT', '*', 'SELL', '2012-07-01', 2.5, 1, 'Finance Act 2012: 0.025 % on sales without delivery, unchanged on 2012-07-01; nearest rupee');

-- Exchange transaction charge with the contribution to the investor protection fund (₹10 a crore from April 2023), as
-- brokers show it. Until September 2024 NSE had slabs by the broker's turnover; this is the lowest.
insert into fee_schedule (fee_schedule, component, side, effective_from, rate_bps, source)
select n.fee_schedule, 'EXCHANGE', s.side, r.effective_from::date, r.rate_bps, r.source
  from (values
    ('2020-07-01', 0.325, 'NSE cash market: ₹3.25 a lakh (Zerodha, 2020); first day not known'),
    ('2021-01-01', 0.345, 'NSE/FA/46730 of 2020-12-18: ₹3.45 a lakh from 2021-01-01'),
    ('2023-04-01', 0.335, 'NSE/FA/56129 of 2023-03-24: ₹3.25 a lakh and ₹0.10 for the fund from 2023-04-01'),
    ('2024-04-01', 0.332, 'NSE/FA/61137 of 2024-03-14: ₹3.22 a lakh and ₹0.10 for the fund from 2024-04-01'),
    ('2024-10-01', 0.307, 'NSE/FA/64232 of 2024-09-27: ₹2.97 a lakh and ₹0.10 for the fund from 2024-10-01; '
                          'NSE/FA/73061 of 2026-02-27 divides the same ₹3.07 otherwise from 2026-03-01')
  ) r (effective_from, rate_bps, source)
 cross join (values ('IN_DELIVERY'), ('IN_INTRADAY')) n (fee_schedule)
 cross join (values ('BUY'), ('SELL')) s (side);

insert into fee_schedule (fee_schedule, component, side, effective_from, rate_bps, source)
select n.fee_schedule, 'SEBI', s.side, r.effective_from::date, r.rate_bps, r.source
  from (values
    ('2019-04-01', 0.01, 'SEBI/LAD-NRO/GN/2019/03: ₹10 a crore from 2019-04-01'),
    ('2020-06-01', 0.005, 'SEBI circular of 2020-04-27: half of it from June 2020 to March 2021'),
    ('2021-04-01', 0.01, 'SEBI circular of 2020-04-27: the whole ₹10 a crore again from 2021-04-01')
  ) r (effective_from, rate_bps, source)
 cross join (values ('IN_DELIVERY'), ('IN_INTRADAY')) n (fee_schedule)
 cross join (values ('BUY'), ('SELL')) s (side);

insert into fee_schedule (fee_schedule, component, side, effective_from, rate_bps, source)
values
  ('IN_DELIVERY', 'STAMP', 'BUY', '2020-07-01', 1.5, 'Indian Stamp Act as amended by the Finance Act 2019: 0.015 % on delivery, buyer, from 2020-07-01'),
  ('IN_INTRADAY', 'STAMP', 'BUY', '2020-07-01', 0.3, 'Indian Stamp Act as amended by the Finance Act 2019: 0.003 % without delivery, buyer, from 2020-07-01');

-- The depository takes its charge once a day and security. Here it is once a sell order, like any flat amount: who sells a
-- security in several orders of one day pays more than a broker would take.
insert into fee_schedule (fee_schedule, component, side, effective_from, flat_amount, source)
values
  ('IN_DELIVERY', 'DP', 'SELL', '2020-07-01', 13.50, 'Zerodha and CDSL: ₹13.50 a security and day (support page, 2021), here once a sell order; first day not known'),
  ('IN_DELIVERY', 'DP', 'SELL', '2024-10-01', 13.00, 'CDSL: ₹3.50 a debit from 2024-10-01, and ₹9.50 for Zerodha, a security and day (charges, 2026), here once a sell order');

-- GST on services; not on the tax and the duty. On the regulator's fee only since July 2022.
insert into fee_schedule (fee_schedule, component, side, effective_from, rate_bps, of_components, source)
select n.fee_schedule, 'GST', s.side, r.effective_from::date, 1800,
       r.of_components || case when (n.fee_schedule, s.side) = ('IN_DELIVERY', 'SELL') then '{DP}' else '{}' end::text[], r.source
  from (values
    ('2017-07-01', '{BROKERAGE,EXCHANGE}'::text[], 'GST at 18 % on brokerage, exchange and depository charges, from 2017-07-01'),
    ('2022-07-18', '{BROKERAGE,EXCHANGE,SEBI}', 'GST at 18 % on the regulator''s fee too, from 2022-07-18 (SEBI circular of that day; BSE notice 20220830-5)')
  ) r (effective_from, of_components, source)
 cross join (values ('IN_DELIVERY'), ('IN_INTRADAY')) n (fee_schedule)
 cross join (values ('BUY'), ('SELL')) s (side);
