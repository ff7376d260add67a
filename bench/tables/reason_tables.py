"""Tables on the truth of the reasons that a service gives for its items."""

from bench.tables.layout import Column, Table, differences, pick

_CHOICES = {
    "because": "the first item of `because`",
    "newest": "the newest item of the history",
    "random": "a random item of the history",
}


def _interval(title: str, key: str, digits: int = 3) -> Column:
    return Column(title, key, digits, has_interval=True)


_STEPS = pick(
    "claim",
    {
        "named_topic_is_in_history": "a topic that a thought names is in the history",
        "prefix_is_of_next_topic": "a prefix that a thought found is of the topic named next",
        "served_item_is_below_a_prefix": "a served item lies below a prefix that a thought found",
        "covered_item_is_of_next_topic": "such an item is of the topic that the thought names next",
        "thought_shown_is_of_the_items_category": "the topic of a thought that is shown is in the "
        "item's categories",
    },
    Column("claims", "claims", 0),
    _interval("true", "share"),
    _interval("true of another user", "another"),
)
_GROUNDS = pick(
    "ground of a served item",
    {
        "ground_memory": "`memory`: counts of pairs",
        "ground_words": "`words`: similar texts",
        "ground_night": "`night`: the night's bonus",
        "ground_model": "`model`: the online model",
        "thought_is_shown": "any of these, and a thought agrees",
    },
    Column("items", "claims", 0),
    Column("share", "share", 3),
    only_present=True,
)
_PAIRS = pick(
    "item given as a reason",
    {
        **{f"pair_{name}": label for name, label in _CHOICES.items()},
        "pair_as_popular": "an item of the catalog, as popular as the first of `because`",
    },
    _interval("of the same topic", "same_topic"),
    _interval("cosine of the words", "words"),
    _interval("somebody had both", "bought_together"),
)
_DELETIONS = pick(
    "deleted from the history",
    {f"delete_{name}": label for name, label in _CHOICES.items()},
    _interval("fall of the score, nats, at least", "drop", 2),
    _interval("fell out of the first ten", "left_ten"),
    _interval("out of the first hundred", "left_hundred"),
)
_DELETION_DIFFERENCES = differences(
    "difference, paired by user",
    "differences",
    {
        "because minus newest": "the first of `because` - the newest",
        "because minus random": "the first of `because` - a random one",
    },
    {
        "drop": "fall of the score",
        "left_ten": "fell out of the first ten",
        "left_hundred": "out of the first hundred",
    },
)

REASON_TABLES = {
    "reason-steps": Table("faithfulness", _STEPS),
    "reason-grounds": Table("faithfulness", _GROUNDS),
    "reason-pairs": Table("faithfulness", _PAIRS),
    "reason-deletions": Table("faithfulness", _DELETIONS),
    "reason-deletion-differences": Table("faithfulness", _DELETION_DIFFERENCES),
}
