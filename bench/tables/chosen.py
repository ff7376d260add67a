"""The tables of README and docs: which rows and columns of which results file."""

import re
from collections.abc import Mapping

from bench.common.results import Row
from bench.tables.layout import Column, Grid, Results, Table, differences, pick

_HISTORIES = (20, 50, 150)
_CONTENDERS = {  # name, kept history, pruned -> text
    ("generate", 0, 0): "`generate`, 10 beams (not exact)",
    ("generate+prompt_once", 0, 0): "`generate`, 10 beams, prompt encoded once",
    ("generate_exact", 0, 0): "`generate`, enough beams to be exact",
    ("native-float32", 1, 1): "ours, history cached",
    ("native-float32+event", 1, 1): "ours, history cached, one new event",
    ("native-float32", 0, 1): "ours, nothing cached",
    ("native-float32", 1, 0): "ours, history cached, no pruning",
    ("onnx-float32", 1, 1): "ours in ONNX Runtime, history cached",
    ("torch-float32", 1, 1): "ours in PyTorch, history cached",
}
_SIGNS = {"==": "must be", "<=": "at most", ">=": "at least"}


def _draw_finish(results: Results) -> Grid:
    """One row per contender, one column per history length; 100 prefixes, codebooks of 256."""
    found: dict[tuple[object, ...], Row] = {
        (row["name"], row["kept_history"], row["pruned"], row["history"]): row
        for row in results.rows
        if (row["prefixes"], row["codebook"]) == (100, 256)
    }
    body = [
        [text, *(_finish_cell(found[*contender, history]) for history in _HISTORIES)]
        for contender, text in _CONTENDERS.items()
    ]
    return Grid(["CPU ms, p50 (speed-up)", *(f"history {history}" for history in _HISTORIES)], body)


def _finish_cell(row: Row) -> str:
    ms = float(row["cpu_ms_p50"])
    text = f"{ms:,.0f}" if ms >= 100 else f"{ms:.1f}" if ms >= 10 else f"{ms:.3f}"
    if str(row["name"]).startswith("generate"):
        return text
    return f"{text} ({float(row['ratio_to_generate']):,.0f}x)"


def _draw_promises(results: Results) -> Grid:
    """One row per promise; details of a promise have a dot in their name."""
    body = [
        [str(row["name"]), str(row["promise"]), _measured(str(row["figure"])), str(row["holds"])]
        for row in results.rows
        if "." not in str(row["name"])
    ]
    return Grid(["", "promise", "measured (bound)", "holds"], body, num_text=4)


def _measured(figure: str) -> str:
    """Spell out the bounds: "p99 ms 37.5 <= 100" becomes "p99 ms 37.5 (at most 100)"."""
    spelled = re.sub(r" (==|<=|>=) (\S+?)(?=;| \(!\)|$)", _spell_bound, figure)
    return spelled.replace("; ", "<br>")


def _spell_bound(found: re.Match[str]) -> str:
    return f" ({_SIGNS[found[1]]} {found[2]})"


def _interval(title: str, key: str, digits: int = 4) -> Column:
    return Column(title, key, digits, has_interval=True)


def _prefixed(prefix: str, labels: Mapping[str, str]) -> dict[str, str]:
    return {f"{prefix}{name}": text for name, text in labels.items()}


_QUALITY = pick(
    "row",
    {
        "popularity": "popularity",
        "sasrec": "SASRec, full cross-entropy",
        "online": "online tier alone",
        "reasoner": "reasoner alone, with thoughts",
        "reasoner_at_once": "reasoner alone, without thoughts",
        "two_tier_strict": "two tiers, strict C_u",
        "two_tier_union": "two tiers, C_u and 100 prefixes of the online tier",
        "two_tier_at_once": "two tiers, strict C_u made without thoughts",
        "two_tier_shuffled": "two tiers, C_u of another user",
        "two_tier_popular_prefixes": "two tiers, popular prefixes",
    },
    _interval("R@5", "recall@5"),
    _interval("R@10", "recall@10"),
    _interval("N@10", "ndcg@10"),
    Column("prefix recall", "prefix_recall", 3),
    Column("prefixes", "prefixes", 1),
)
_SUMMARY = pick(
    "row",
    {
        "popularity": "popularity",
        "sasrec": "SASRec, full cross-entropy",
        "online": "online tier alone",
        "two_tier_strict": "two tiers, with thoughts",
        "two_tier_at_once": "two tiers, without thoughts",
    },
    _interval("recall@10", "recall@10"),
    Column("NDCG@10", "ndcg@10", 4),
    Column("prefixes", "prefixes", 0),
)
_DIFFERENCES = differences(
    "difference, paired by user",
    "differences",
    {
        "two_tier_strict minus online": "two tiers, strict C_u - online tier alone",
        "two_tier_strict minus two_tier_at_once": "two tiers, strict C_u - without thoughts",
        "reasoner minus reasoner_at_once": "reasoner alone - without thoughts",
        "online minus sasrec": "online tier alone - SASRec",
        "two_tier_strict minus online_own_prefixes": "C_u - as many prefixes of the online tier",
        "two_tier_at_once minus online_own_prefixes": "C_u without thoughts - of the online tier",
    },
    {"recall@10": "R@10", "ndcg@10": "N@10", "prefix_recall": "prefix recall"},
)
_FAITHFULNESS = pick(
    "thought",
    {
        "empty": "empty",
        "quarter": "first quarter",
        "half": "first half",
        "three quarters": "first three quarters",
        "whole": "whole",
        "shuffled": "of another user",
    },
    _interval("log P of the next item", "log_p_target", 2),
    Column("R@10, reasoner alone", "recall@10", 3),
    Column("prefix recall", "prefix_recall", 3),
    Column("prefixes", "prefixes", 1),
)
_STAGES = pick(
    "reasoner alone after",
    {
        "base": "base: sequences, no words",
        "ia": "+ Itemic Alignment",
        "r": "+ Reasoning Activation, thinking",
        "rl": "+ Reasoning Enhancement, thinking",
    },
    _interval("R@10", "recall@10"),
    _interval("N@10", "ndcg@10"),
    Column("prefix recall", "prefix_recall", 3),
    Column("SIDs to rank", "sids", 1),
)
_STAGE_GAINS = differences(
    "gain over the stage before, paired by user",
    "gain_over_the_row_before",
    {
        "ia minus base": "Itemic Alignment",
        "r minus ia": "Reasoning Activation",
        "rl minus r": "Reasoning Enhancement",
    },
    {"recall@10": "R@10", "ndcg@10": "N@10"},
)
_FRONTIER = pick(
    "paths T, beams m",
    {
        name: name
        for name in (
            "T=1 m=10",
            "T=2 m=10",
            "T=2 m=20",
            "T=3 m=20",
            "T=5 m=10",
            "T=5 m=20",
            "T=8 m=20",
        )
    },
    Column("prefix recall of C_u", "prefix_recall"),
    Column("of as many prefixes of the online tier", "own_prefix_recall"),
    _interval("R@10, strict", "strict@10"),
    Column("prefixes", "prefixes", 1),
    Column("tokens per user", "tokens", 0),
    Column("CPU ms per user", "cpu_ms", 0),
)
_STALENESS = pick(
    "age of C_u in interactions",
    {f"{age} ago": f"{age}" for age in (0, 1, 2, 4, 8)},
    _interval("prefix recall of C_u", "prefix_recall", 3),
    Column("of as many prefixes of the online tier", "own_prefix_recall", 3),
    _interval("R@10, strict", "strict@10"),
    Column("R@10, union", "union@10"),
)
_UNDERSTANDING = pick(
    "text",
    {
        "user: reasoner": "interests of a user, by the reasoner's thought",
        "user: random": "interests of a user, text of a random user",
        "user: most_bought": "interests of a user, from all purchases",
        "persona: reasoner": "persona of a user, by the reasoner",
        "persona: random": "persona of a user, text of a random user",
        "persona: most_bought": "persona of a user, from all purchases",
        "item: reasoner": "caption of an item, by the reasoner",
        "item: random": "caption of an item, text of a random item",
        "item: same_prefix": "caption of an item, text of an item with the same prefix",
    },
    _interval("BERTScore F1", "f1", 3),
)
_SIDS = pick(
    "SIDs",
    {
        "beauty": "ours, 64/64/256",
        "letter_4x256": "LETTER, 4x256",
        "unigenrec_rqkmeans_4x256": "RQ-KMeans, 4x256",
        "unigenrec_rqvae_3x256": "RQ-VAE, 3x256",
    },
    Column("two-code prefixes", "groups_2", 0),
    Column("items per prefix", "fan_out", 2),
    Column("weighted by item", "fan_out_weighted", 2),
    Column("unique", "unique", 1, scale=100, unit="%"),
    Column("purity of 1 code", "purity_1", 3),
    Column("purity of 2 codes", "purity_2", 3),
)
_EXACT = pick(
    "runtime",
    {
        "native-float32": "native, float32",
        "onnx-float32": "ONNX Runtime, float32",
        "torch-float32": "PyTorch, float32",
        "torch-float64": "PyTorch, float64",
        "torch-bfloat16": "PyTorch, bfloat16",
    },
    Column("users", "users", 0),
    Column("largest difference in log P", "max_abs_difference", 1, is_tiny=True),
    Column("top-10 sets that differ", "top_sets_that_differ", 0),
)
_SCALE = pick(
    "random SIDs, 3 x 8192",
    {
        "12,101": "12,101 items",
        "1,000,000": "1,000,000 items",
        "10,000,000": "10,000,000 items",
        "1,000,000 skewed": "1,000,000 items, skewed",
    },
    Column("CPU ms of a finish, p50", "cpu_ms_p50", 3),
    Column("build, s", "build_s", 2),
    Column("bytes per item", "bytes_per_item", 0),
)
_TRIE = pick(
    "codebooks",
    {name: name for name in ("8192x8192x8192", "256x256x256x256", "64x64x256")},
    Column("distinct SIDs", "distinct_sids", 0),
    Column("build, s", "build_s", 2),
    Column("bytes per SID", "bytes_per_sid", 1),
    Column("one look-up, us", "children_us", 1),
    Column("look-up in a batch, us", "expand_us", 2),
)
_LATENCY = pick(
    "requests/s",
    {
        **{f"rate_{rate}": f"{rate:,}" for rate in (400, 600, 800, 1000, 1200, 1400)},
        "half": "half of the highest rate that holds",
    },
    Column("p50 ms", "p50_ms", 1),
    Column("p99 ms", "p99_ms", 1),
    Column("p99.9 ms", "p999_ms", 1),
    Column("answered within 100 ms, per second", "goodput", 0),
    Column("personal", "share_personal", 1, scale=100, unit="%"),
    Column("CPU ms per request", "cpu_ms", 2),
)
_PATH = pick(
    "part",
    {
        "HTTP and ASGI (an empty route)": "HTTP and ASGI (an empty route)",
        "store (one round trip)": "store, one round trip",
        "history (kept)": "history, cached",
        "finish": "finish",
        "JSON": "JSON",
        "routing, validation, ladder, metrics, middleware": "routing, validation, ladder, metrics",
        "the whole request": "whole request",
    },
    Column("CPU us", "cpu_us", 0),
    Column("share", "share", 0, scale=100, unit="%"),
)
_REFRESH = pick(
    "engine",
    {
        "plain_generate": "`generate` of transformers",
        "transformers": "ours on transformers",
        "ray": "ours on transformers, in a Ray worker",
        "vllm": "ours on vLLM (CPU build)",
    },
    Column("users/s", "users_per_s", 2),
    Column("ratio", "ratio_to_plain", 1),
    Column("tokens computed", "tokens_computed", 0),
    Column("tokens needed", "tokens_needed", 0),
)
_FOOTPRINT = pick(
    "part",
    {
        "record_32": "record of a user, 32 prefixes",
        "json_32": "the same record as JSON",
        "record_100": "record of a user, 100 prefixes",
        "json_100": "the same record as JSON",
        "thoughts_1": "texts of 1 thought",
        "thoughts_5": "texts of 5 thoughts",
        "history_9": "history of 9 events",
        "history_50": "history of 50 events",
        "service": "service process after its start",
    },
    Column("bytes per user in Redis", "bytes_per_user", 0),
    Column("RSS, MB", "rss_mb", 0),
)
_MILLION = pick(
    "step",
    {
        "quiet": "no step, service alone",
        "load": "load",
        "verify": "verify",
        "activate": "gates and activation",
        "rollback": "rollback",
    },
    Column("seconds", "seconds", 1),
    Column("users/s", "users_per_s", 0),
    Column("p50 ms of answers", "p50_ms", 1),
    Column("p99 ms of answers", "p99_ms", 1),
    Column("personal", "share_personal", 1, scale=100, unit="%"),
)
_OUTAGES = pick(
    "Redis is",
    _prefixed(
        "R1.",
        {
            "killed": "killed with SIGKILL",
            "hung": "stopped with SIGSTOP",
            "read_only": "read-only",
            "slow": "slow",
            "black_hole": "silent (packets vanish)",
            "refused": "refusing connections",
            "reset": "resetting connections",
            "truncated": "truncating replies",
            "loading": "loading its data",
            "corrupted": "corrupting replies",
        },
    ),
    Column("answers", "answers", 0),
    Column("5xx or none", "failed", 0),
    Column("p99 ms", "p99_ms", 1),
    Column("personal again after, s", "personal_s", 2),
)
_OVERLOAD = pick(
    "load",
    _prefixed("R3.", {"twice": "2 times the capacity", "overload": "10 times the capacity"}),
    Column("capacity, requests/s", "capacity", 0),
    Column("offered, requests/s", "offered", 0),
    Column("answered in time, per second", "goodput", 0),
    Column("of these by a model", "full_goodput", 0),
    Column("p99 ms of accepted", "accepted_p99_ms", 0),
    Column("503", "status_503", 0),
)
_SOAK = pick(
    "run",
    {"R9.soak": "30 minutes"},
    Column("answers", "answers", 0),
    Column("5xx or none", "failed", 0),
    Column("p99 ms", "p99_ms", 1),
    Column("RSS at the end, MB", "rss_mb", 0),
    Column("RSS slope, MB per 10 minutes", "slope_mb", 2),
)

TABLES = {
    "summary": Table("quality", _SUMMARY),
    "quality": Table("quality", _QUALITY),
    "quality-differences": Table("quality", _DIFFERENCES),
    "faithfulness": Table("faithfulness", _FAITHFULNESS),
    "stages": Table("stages", _STAGES),
    "stage-gains": Table("stages", _STAGE_GAINS),
    "frontier": Table("frontier", _FRONTIER),
    "staleness": Table("staleness", _STALENESS),
    "understanding": Table("understanding", _UNDERSTANDING),
    "sids": Table("sids", _SIDS),
    "finish": Table("finish", _draw_finish),
    "exact": Table("exact", _EXACT),
    "scale": Table("scale", _SCALE),
    "trie": Table("trie", _TRIE),
    "latency": Table("latency", _LATENCY),
    "path": Table("path", _PATH),
    "refresh": Table("refresh", _REFRESH),
    "footprint": Table("footprint", _FOOTPRINT),
    "million": Table("million", _MILLION),
    "promises": Table("chaos", _draw_promises),
    "redis-outages": Table("chaos", _OUTAGES),
    "overload": Table("chaos", _OVERLOAD),
    "soak": Table("soak", _SOAK),
}
