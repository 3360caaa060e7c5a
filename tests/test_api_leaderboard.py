"""GET /v1/leaderboard: the key's own runs, with the digits of the verb."""

from __future__ import annotations

from door import Client, Door
from psycopg.rows import dict_row

SIP = {"symbol": "AAA", "frequency": "DAILY", "start": "2024-01-01"}


def play(client: Client, feed: str, amount: str, name: str) -> int:
    run = client.start(feed=feed, name=name)
    client.ok("POST", f"/v1/runs/{run}/sips", 201, json={**SIP, "amount": amount})
    for n in range(4):
        client.tick(run, n)
    client.ok("POST", f"/v1/runs/{run}/stop")
    return run


def test_it_ranks_the_runs_of_the_key(api: Door) -> None:
    ann, bob = api.client(), api.client()
    feed = api.feed(range(100, 110))
    little, much = play(ann, feed, "100", "little"), play(ann, feed, "900", "much")
    play(bob, feed, "500", "his")
    never = ann.start(feed=feed, name="never ticked")
    found = ann.items("/v1/leaderboard", metric="twr")
    assert [row["run_id"] for row in found] == [much, little, never]
    assert [row["rank"] for row in found] == [1, 2, 3]
    assert (found[2]["value"], found[2]["reason"]) == (None, "NO_MARK")
    with api.conn.cursor(row_factory=dict_row) as cur:
        verb = cur.execute("select * from leaderboard('twr', %s, null)", [feed]).fetchall()
    by_run = {row["run_id"]: row for row in verb}
    for row in found:
        for name in ("twr", "xirr", "sharpe", "equity", "value"):
            stored = by_run[row["run_id"]][name]
            assert row[name] == (None if stored is None else str(stored))
    assert [row["run_id"] for row in ann.items("/v1/leaderboard", metric="equity", name_like="lit%")] == [little]
    assert ann.ok("GET", "/v1/leaderboard?metric=twr&limit=1")["items"] == found[:1]
    assert ann.ok("GET", "/v1/leaderboard")["next_cursor"] is None
    ann.refused(422, "TE101", "GET", "/v1/leaderboard?metric=luck")
    ann.refused(404, "TE201", "GET", "/v1/leaderboard?feed=nowhere")
