"""Tables of the baselines of the paper's Table 1: quality, and what the budget bought."""

from bench.tables.layout import Column, Grid, Results, Table, pick

_ROWS = {
    "popularity": "popularity",
    "counts": "item-item counts",
    "bert4rec": "BERT4Rec",
    "hgn": "HGN",
    "gru4rec": "GRU4Rec",
    "sasrec": "SASRec, ours",
    "sasrec_recbole": "SASRec, RecBole's",
    "tiger": "TIGER over our SIDs",
    "hstu": "HSTU",
    "rearec": "ReaRec",
    "online_no_memory": "online tier without its memory",
    "online": "online tier; in the paper OneRec-Think",
}
_QUALITY = pick(
    "row",
    _ROWS,
    Column("R@5", "recall@5"),
    Column("R@10", "recall@10", has_interval=True),
    Column("N@5", "ndcg@5"),
    Column("N@10", "ndcg@10", has_interval=True),
    Column("R@10, other day", "recall@10_other_day"),
    Column("R@10 in the paper", "paper_recall@10"),
    Column("N@10 in the paper", "paper_ndcg@10"),
    only_present=True,
)
_DIFFERENCE_HEADER = ("difference, paired by user", "R@10", "N@10")
_BUDGET_HEADER = (
    "contender",
    "network",
    "parameters",
    "best of",
    "epochs",
    "CPU minutes",
    "R@10, validation",
    "N@10, validation",
    "still rising",
)


def _draw_differences(results: Results) -> Grid:
    """Show the online tier minus each row that the results have."""
    body = []
    for name, label in _ROWS.items():
        found = results.meta["differences"].get(f"online minus {name}")
        if found is not None:
            cells = [_signed(found[metric]) for metric in ("recall@10", "ndcg@10")]
            body.append([f"online tier - {label}", *cells])
    return Grid(_DIFFERENCE_HEADER, body)


def _signed(interval: dict[str, float]) -> str:
    return "{mean:+.4f} ({low:+.4f} to {high:+.4f})".format(**interval)


def _draw_budget(results: Results) -> Grid:
    """Show what training the chosen setting of each contender took."""
    body = []
    for name, facts in results.meta["contenders"].items():
        chosen = facts["tried"][facts["chosen"]]
        body.append(
            [
                _ROWS[name],
                facts["source"],
                f"{facts['parameters']:,}",
                f"{len(facts['tried'])} settings",
                f"{chosen['best_epoch']} of {chosen['epochs']}",
                f"{chosen['cpu_seconds'] / 60:.0f}",
                f"{chosen['valid_recall@10']:.4f}",
                f"{chosen['valid_ndcg@10']:.4f}",
                "no" if chosen["stopped_rising"] else "yes",
            ]
        )
    return Grid(_BUDGET_HEADER, body, num_text=2)


TABLE1_TABLES = {
    "table1": Table("table1", _QUALITY),
    "table1-differences": Table("table1", _draw_differences),
    "table1-budget": Table("table1", _draw_budget),
}
