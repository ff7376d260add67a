"""Tables of ranking quality, thoughts and semantic ids."""

from bench.tables.layout import Column, Table, differences, pick


def _interval(title: str, key: str, digits: int = 4) -> Column:
    return Column(title, key, digits, has_interval=True)


_QUALITY = pick(
    "row",
    {
        "popularity": "popularity",
        "counts": "item-item counts",
        "sasrec": "SASRec, full cross-entropy",
        "online": "online tier alone",
        "two_tier_fused": "two tiers, fused, by the records of a night",
        "two_tier_fused_no_thought": "two tiers, fused, without thoughts",
        "two_tier_fused_day_before": "two tiers, fused, night of the day before",
        "reasoner": "reasoner alone, with thoughts",
        "reasoner_at_once": "reasoner alone, without thoughts",
        "two_tier_strict": "two tiers, strict C_u",
        "two_tier_union": "two tiers, C_u and 100 prefixes of the online tier",
        "two_tier_strict_no_thought": "two tiers, strict C_u of all but the thoughts",
        "two_tier_thoughts": "two tiers, strict C_u of the thoughts alone",
        "two_tier_at_once": "two tiers, strict C_u of the reasoner at once",
        "two_tier_shuffled": "two tiers, C_u of another user",
        "two_tier_popular_prefixes": "two tiers, popular prefixes",
    },
    _interval("R@5", "recall@5"),
    _interval("R@10", "recall@10"),
    _interval("N@10", "ndcg@10"),
    Column("prefix recall", "prefix_recall", 3),
    Column("prefixes", "prefixes", 1),
)
_DIFFERENCES = differences(
    "difference, paired by user",
    "differences",
    {
        "two_tier_fused minus online": "two tiers, fused - online tier alone",
        "two_tier_fused minus two_tier_fused_no_thought": "two tiers, fused - without thoughts",
        "two_tier_fused_day_before minus online": "night of the day before - online tier alone",
        "two_tier_strict minus online": "two tiers, strict C_u - online tier alone",
        "two_tier_strict minus two_tier_strict_no_thought": "strict C_u - of all but the thoughts",
        "two_tier_strict minus two_tier_thoughts": "strict C_u - of the thoughts alone",
        "two_tier_strict minus two_tier_at_once": "strict C_u - of the reasoner at once",
        "reasoner minus reasoner_at_once": "reasoner alone - without thoughts",
        "two_tier_strict minus online_own_prefixes": "C_u - as many prefixes of the online tier",
        "two_tier_strict_no_thought minus online_own_prefixes": (
            "C_u of all but the thoughts - of the online tier"
        ),
    },
    {"recall@10": "R@10", "ndcg@10": "N@10", "prefix_recall": "prefix recall"},
)
_PLAIN_ROWS = {
    "popularity": "popularity",
    "counts": "item-item counts",
    "memory": "the memory alone: counts and texts",
    "sasrec": "SASRec, full cross-entropy",
    "online_no_memory": "online tier without its memory",
    "online": "online tier",
}
_FUSED_ROWS = {
    **_PLAIN_ROWS,
    "night_items": "the night's items alone",
    "two_tier_fused": "two tiers, fused",
    "two_tier_fused_day_before": "two tiers, fused, night of the day before",
}
_REFIT_ROWS = {f"{name}_refit": f"{label}, refit" for name, label in _PLAIN_ROWS.items()}
_TIE_ROWS = {f"{name}_ties": f"{label}, ties shuffled" for name, label in _PLAIN_ROWS.items()}
_PROTOCOL = pick(
    "row",
    {**_PLAIN_ROWS, **_REFIT_ROWS, **_TIE_ROWS},
    _interval("R@10", "recall@10"),
    Column("N@10", "ndcg@10"),
    _interval("R@10, same day", "recall@10_same_day"),
    _interval("R@10, other day", "recall@10_other_day"),
)
_SUMMARY = pick(
    "row",
    {**_PLAIN_ROWS, "online_refit": "online tier, refit"},
    _interval("recall@10", "recall@10"),
    Column("NDCG@10", "ndcg@10"),
    Column("recall@10, target of another day", "recall@10_other_day"),
)
_FUSED = pick(
    "row",
    _FUSED_ROWS,
    _interval("R@10", "recall@10"),
    Column("N@10", "ndcg@10"),
    _interval("R@10, same day", "recall@10_same_day"),
    _interval("R@10, other day", "recall@10_other_day"),
)
_FUSED_DIFFERENCES = differences(
    "difference, paired by user",
    "differences",
    {
        "two_tier_fused minus online": "two tiers, fused - online tier",
        "two_tier_fused_day_before minus online": "night of the day before - online tier",
        "two_tier_fused minus night_items": "two tiers, fused - the night's items alone",
    },
    {
        "recall@10": "R@10",
        "ndcg@10": "N@10",
        "recall@10_same_day": "R@10, same day",
        "recall@10_other_day": "R@10, other day",
    },
)
_ITEM_AGE = pick(
    "row",
    {**_PLAIN_ROWS, **_REFIT_ROWS},
    _interval("R@10, never trained on", "recall@10_trained_never"),
    _interval("1 to 3 times", "recall@10_trained_1_to_3"),
    _interval("more often", "recall@10_trained_more"),
)
_PROTOCOL_DIFFERENCES = differences(
    "difference, paired by user",
    "differences",
    {
        "counts minus popularity": "counts - popularity",
        "online minus counts": "online tier - counts",
        "online minus memory": "online tier - its memory alone",
        "online minus sasrec": "online tier - SASRec",
        "online minus online_no_memory": "online tier - without its memory",
        "online_ties minus counts_ties": "online tier - counts, ties shuffled",
        "counts_refit minus counts": "counts, refit - not refit",
        "online_refit minus online": "online tier, refit - not refit",
    },
    {
        "recall@10": "R@10",
        "ndcg@10": "N@10",
        "recall@10_same_day": "R@10, same day",
        "recall@10_other_day": "R@10, other day",
    },
)
_TIME_SPLIT = pick(
    "arm",
    {
        "popularity": "popularity, frozen",
        "popularity_daily": "popularity, updated daily",
        "counts_frozen": "counts frozen, history frozen",
        "counts": "counts frozen, history fresh",
        "counts_daily": "counts updated daily",
        "counts_event": "counts updated after each user's day",
        "memory_live": "memory alone (counts and texts), updated after each user's day",
        "frozen": "online model frozen, history frozen",
        "history_only": "online model frozen, history fresh",
        "counts_live": "weights frozen, memory updated after each user's day",
        "daily": "weights and memory updated daily",
        "micro_batch": "weights by micro-batches, memory updated after each user's day",
        "refit": "weights refit, memory updated after each user's day",
    },
    _interval("R@10", "recall@10"),
    Column("N@10", "ndcg@10"),
    Column("R@10, target seen 5 times and more", "recall@10_5_and_more"),
    Column("1 to 4 times", "recall@10_1_to_4"),
    Column("never", "recall@10_never"),
)
_TIME_SPLIT_DIFFERENCES = differences(
    "difference, paired by event",
    "differences",
    {
        "counts minus counts_frozen": "fresh history - frozen history",
        "counts_daily minus counts": "updated daily - fresh history",
        "counts_event minus counts": "updated after each user's day - fresh history",
        "counts_event minus counts_daily": "updated after each user's day - daily",
        "memory_live minus counts_event": "live memory alone - live counts alone",
        "counts_live minus history_only": "live memory - frozen memory, frozen weights",
        "micro_batch minus counts_live": "micro-batches - frozen weights, live memory",
        "refit minus counts_live": "refit - frozen weights, live memory",
        "refit minus micro_batch": "refit - micro-batches",
        "micro_batch minus daily": "within the day - daily",
        "micro_batch minus history_only": "whole model learning on - fresh history alone",
        "micro_batch minus frozen": "whole model learning on - all frozen",
        "micro_batch minus counts_event": "whole model learning on - live counts alone",
        "micro_batch minus memory_live": "whole model learning on - live memory alone",
    },
    {
        "recall@10": "R@10",
        "ndcg@10": "N@10",
        "recall@10_5_and_more": "R@10, seen 5 times and more",
        "recall@10_1_to_4": "1 to 4 times",
        "recall@10_never": "never",
    },
)
_THOUGHT_WORDS = pick(
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
_WISHES = pick(
    "wish",
    {
        "popularity": "popularity, topic from elsewhere",
        "none": "none, topic from elsewhere",
        "trained": "the trained sentence",
        "untrained": "16 other wordings, mean",
        "none_inside": "none, topic of the user's own",
        "untrained_inside": "another wording, topic of the user's own",
        "negation": "12 refusals of it, mean",
        "none_unwind": "none, relaxing items",
        "mood_unwind": '"after a stressful week I need to unwind"',
        "mood_rough_day": '"rough day, cheer me up"',
        "none_beach": "none, items for the sun",
        "mood_beach": '"we are flying to the beach next month"',
        "none_party": "none, festive items",
        "mood_party": '"there is a big party on Saturday"',
        "brand": "brand of the first item, before",
        "brand_turn": '"a different maker please, not that brand"',
        "none_true": "none, kind of the next item",
        "untrained_true": "another wording, kind of the next item",
    },
    Column("fused", "fused", 3),
    Column("fused, by title", "fused_title", 3),
    Column("strict", "strict", 3),
    Column("union", "union", 3),
    Column("R@10, fused", "recall@10_fused", 3),
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

QUALITY_TABLES = {
    "summary": Table("protocol", _SUMMARY),
    "quality": Table("quality", _QUALITY),
    "quality-differences": Table("quality", _DIFFERENCES),
    "protocol": Table("protocol", _PROTOCOL),
    "protocol-differences": Table("protocol", _PROTOCOL_DIFFERENCES),
    "fused": Table("quality", _FUSED),
    "fused-differences": Table("quality", _FUSED_DIFFERENCES),
    "item-age": Table("protocol", _ITEM_AGE),
    "time-split": Table("time_split", _TIME_SPLIT),
    "time-split-differences": Table("time_split", _TIME_SPLIT_DIFFERENCES),
    "thought-words": Table("thought_words", _THOUGHT_WORDS),
    "wishes": Table("wishes", _WISHES),
    "stages": Table("stages", _STAGES),
    "stage-gains": Table("stages", _STAGE_GAINS),
    "frontier": Table("frontier", _FRONTIER),
    "staleness": Table("staleness", _STALENESS),
    "understanding": Table("understanding", _UNDERSTANDING),
    "sids": Table("sids", _SIDS),
}
