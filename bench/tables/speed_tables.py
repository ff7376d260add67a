"""Tables of speed and memory."""

from bench.common.results import Row
from bench.tables.layout import Column, Grid, Results, Table, pick

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
    Column("largest difference of a score", "max_abs_difference", 1, is_tiny=True),
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
    Column("with the memory", "memory_cpu_ms_p50", 3),
    Column("build, s", "build_s", 2),
    Column("bytes per item", "bytes_per_item", 0),
    Column("of its neighbours", "memory_bytes_per_item", 0),
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
_FRESHNESS = pick(
    "from ... to an answer of every service",
    {
        "counts": "POST of an event, to its counts",
        "weights": "POST of an event, to weights that have learnt it",
        "item_fed": "feed line of a new item, to its first recommendation",
        "item_fifth_event": "fifth event of a new item, to its first recommendation",
    },
    Column("events", "events", 0),
    Column("seen", "seen", 0),
    Column("dropped by a gate", "dropped", 0),
    Column("p50 s", "p50_s", 1),
    Column("p99 s", "p99_s", 1),
    Column("max s", "max_s", 1),
    Column("bar s", "bar_s", 0),
)
_FRESH_REQUESTS = pick(
    "meanwhile",
    {
        "requests": "recommendations, open loop",
        "posts": "posts of events",
        "looks": "looks at the version",
    },
    Column("requests", "requests", 0),
    Column("p50 ms", "p50_ms", 1),
    Column("p95 ms", "p95_ms", 1),
    Column("p99 ms", "p99_ms", 1),
    Column("within 100 ms", "in_budget", 1, scale=100, unit="%"),
    Column("5xx or none", "failed", 0),
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
_WORKERS = pick(
    "service",
    {"1 worker": "one process", "2 workers": "two workers"},
    Column("answers/s", "rate_per_s", 0),
    Column("ratio", "ratio", 2),
    Column("p50 ms", "p50_ms", 1),
    Column("p99 ms", "p99_ms", 1),
    Column("CPU us of the service per answer", "service_us", 0),
    Column("of the generator", "generator_us", 0),
    Column("personal", "share_personal", 1, scale=100, unit="%"),
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

SPEED_TABLES = {
    "finish": Table("finish", _draw_finish),
    "exact": Table("exact", _EXACT),
    "scale": Table("scale", _SCALE),
    "trie": Table("trie", _TRIE),
    "latency": Table("latency", _LATENCY),
    "workers": Table("workers", _WORKERS),
    "path": Table("path", _PATH),
    "freshness": Table("freshness", _FRESHNESS),
    "freshness-requests": Table("freshness", _FRESH_REQUESTS),
    "refresh": Table("refresh", _REFRESH),
    "footprint": Table("footprint", _FOOTPRINT),
    "million": Table("million", _MILLION),
}
