"""Gates, the comparison that they judge, the pace of a load, and the report."""

from dataclasses import replace
from typing import Any

import pytest

from models.errors import InvalidSettings
from models.reasoner.think import PathPrefix, UserThoughts
from offline.check.compare import Comparison, compare, summarise_before
from offline.check.gates import Gate, Night, describe_failures, judge, may_force, read_limits
from offline.check.report import describe, render_metrics
from offline.check.report_html import render_html
from offline.disk.shards import ShardRow
from offline.live.write_rate import MAX_WINDOW, WriteRate
from tests.fakes.toy import toy_catalog

CATALOG = toy_catalog()
LEGAL = [tuple(codes) for codes in CATALOG.trie.prefixes().tolist()]


def row(user_id: str, *prefixes: tuple[int, ...], dropped: int = 0, tokens: int = 9) -> ShardRow:
    found = tuple(PathPrefix(codes, 0, -1.0, 1) for codes in prefixes)
    return ShardRow(1000, UserThoughts(user_id, ("a thought",), found, dropped, tokens))


def compared(today: list[ShardRow], before: list[ShardRow], **arrivals: list[str]) -> Comparison:
    return compare(today, summarise_before(before, num_rows=len(before)), CATALOG, arrivals)


def verdict(found: Comparison, name: str, **night: int) -> Gate:
    gates = judge(Night(night.get("due", 100), night.get("dead", 0)), found)
    return next(gate for gate in gates if gate.name == name)


def test_a_comparison_counts_new_changed_unchanged_and_gone() -> None:
    a, b, c, d = LEGAL[:4]
    before = [row("same", a, b), row("half", a, b), row("gone", a)]
    found = compared([row("same", b, a), row("half", b, c), row("new", d)], before)
    assert (found.new, found.changed, found.unchanged, found.gone) == (1, 1, 1, 1)
    assert found.mean_overlap == pytest.approx((1 + 1 / 3) / 2)
    assert (found.overlaps[3], found.overlaps[9]) == (1, 1)


def test_drift_is_nothing_for_the_same_codes_and_one_for_others() -> None:
    first = [codes for codes in LEGAL if codes[0] == 0][:2]
    other = [codes for codes in LEGAL if codes[0] == 1][:2]
    assert compared([row("u", *first)], [row("u", *first)]).drift == 0.0
    assert compared([row("u", *other)], [row("u", *first)]).drift == 1.0


@pytest.mark.parametrize("codes", [(7, 99), (99, 0), (0,), (0, 0, 0)])
def test_one_illegal_prefix_fails_and_no_reason_overrules_it(codes: tuple[int, ...]) -> None:
    found = compared([row("u", *LEGAL[:50]), row("v", codes)], [])
    gates = judge(Night(2, 0), found)
    assert "legality" in describe_failures(gates)
    assert not may_force(gates)


def test_shares_of_a_handful_of_users_are_not_judged() -> None:
    found = compared([row("u", LEGAL[0])], [])
    assert verdict(found, "coverage", due=10).value is None
    assert not verdict(found, "coverage", due=100).has_passed
    assert verdict(found, "dead_letters", due=10, dead=9).has_passed
    assert not verdict(found, "dead_letters", due=100, dead=6).has_passed


def test_much_fewer_prefixes_than_the_night_before_fail() -> None:
    before = [row("u", *LEGAL[:10])]
    assert verdict(compared([row("u", *LEGAL[:5])], before), "prefixes").has_passed
    assert not verdict(compared([row("u", *LEGAL[:4])], before), "prefixes").has_passed
    assert verdict(compared([row("u", *LEGAL[:4])], []), "prefixes").value is None


def test_prefixes_that_share_nothing_with_the_night_before_fail() -> None:
    found = compared([row("u", *LEGAL[:5])], [row("u", *LEGAL[5:10])])
    assert not verdict(found, "overlap").has_passed
    assert verdict(compared([row("u", *LEGAL[:5])], []), "overlap").value is None


def test_paths_that_never_close_fail() -> None:
    assert verdict(compared([row("u", LEGAL[0], dropped=1)], []), "unclosed").has_passed
    assert not verdict(compared([row("u", LEGAL[0], dropped=2)], []), "unclosed").has_passed


def test_recall_on_fresh_events_is_held_against_that_of_the_night_before() -> None:
    items = list(CATALOG.item_ids[:120])
    hits = {tuple(sid[:2].tolist()) for sid in CATALOG.sids[:120]}
    good, bad = row("u", *hits), row("u", *[codes for codes in LEGAL if codes not in hits])
    assert verdict(compared([good], [good], u=items), "fresh_recall").value == 1.0
    assert not verdict(compared([bad], [good], u=items), "fresh_recall").has_passed
    assert verdict(compared([bad], [good], u=items[:50]), "fresh_recall").value is None
    assert verdict(compared([bad], [good], u=["unknown"] * 200), "fresh_recall").value is None


def test_limits_are_read_by_name() -> None:
    assert read_limits(["coverage=0.9", "overlap=0"]).coverage == 0.9
    for text in ("coverage", "coverage=much", "colour=1"):
        with pytest.raises(InvalidSettings, match="--gate"):
            read_limits([text])


def test_the_pace_grows_by_one_and_is_cut_in_half() -> None:
    rate = WriteRate(target_ms=5)
    for step in range(100):
        rate.record_ping(1.0, memory_share=0.0, now_s=step)
    assert rate.num_writes == int(MAX_WINDOW)
    rate.record_ping(50.0, memory_share=0.0, now_s=200.0)
    assert rate.num_writes == MAX_WINDOW // 2
    rate.record_ping(50.0, memory_share=0.0, now_s=200.01)  # the cut has to take hold first
    assert rate.num_writes == MAX_WINDOW // 2
    rate.record_ping(1.0, memory_share=0.95, now_s=201.0)
    assert rate.num_writes == MAX_WINDOW // 4


def test_a_store_that_stays_slow_is_written_to_with_pauses() -> None:
    rate = WriteRate(target_ms=5)
    for step in range(20):
        rate.record_ping(50.0, memory_share=0.0, now_s=step)
    assert rate.num_writes == 1
    assert 0.03 < rate.pause_s < 0.1
    assert rate.slowest_ms == 50.0


def summary_of(found: Comparison, **more: Any) -> dict[str, Any]:
    gates = judge(Night(2, 0), found)
    head = {"generation": 5, "created_at": 1000, "layer": "base", "release": "toy@1"}
    return {**head, **describe(found, gates, None), **more}


def test_the_report_is_one_page_that_asks_for_nothing_and_escapes_users() -> None:
    hostile = "<script>alert(1)</script>"
    today = [row(hostile, *LEGAL[:5]), row("v", *LEGAL[2:9])]
    page = render_html(summary_of(compared(today, [row("v", *LEGAL[:9])]), forced="<b>why</b>"))
    assert hostile not in page
    assert "&lt;script&gt;" in page
    assert "&lt;b&gt;why" in page
    assert not any(word in page for word in ("http", "src=", "<script", "@import"))
    for title in ("Gates", "overlap", "Paths by length", "first codes", "most tokens"):
        assert title in page


def test_a_first_night_has_a_report_too() -> None:
    page = render_html(summary_of(compared([row("u", LEGAL[0])], [])))
    assert "Nothing to compare with" in page
    assert "not live" in page
    assert "<td>overlap<td><span class=none>too few data to judge</span>" in page
    assert "class=before" not in page


def test_the_report_tells_what_took_long_from_who_took_many_tokens() -> None:
    slow = {"seconds": 3.5, "shard": 7, "batch": 12, "users": 32, "tokens": 4812}
    found = compared([row("u", LEGAL[0], tokens=189)], [])
    page = render_html(
        summary_of(found, think_s=7200.0, users_per_s=27.0, tokens_per_s=3776.0, cost=0.2)
        | {"slowest_batches": [slow]}
    )
    assert "<td>process hours<td class=n>2.000" in page
    assert "<td class=n>3.500<td class=n>7<td class=n>12<td class=n>32<td class=n>4,812" in page
    assert "<td>u<td class=n>189" in page


def test_metrics_name_every_gate_and_stage() -> None:
    found = compared([row("u", LEGAL[0])], [])
    text = render_metrics(summary_of(found, epoch=3, seconds={"think": 1.5}))
    assert "thinkahead_night_epoch 3\n" in text
    assert 'thinkahead_night_gate_passed{gate="legality"} 1\n' in text
    assert 'thinkahead_night_stage_seconds{stage="think"} 1.5\n' in text
    assert replace(found).num_users == 1
