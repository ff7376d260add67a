"""Table of all tasks of the stage `perceive`: their level, their number in SIDReasoner, their rows.

The names are the keys of the recipe's table `[perception]`.
"""

from typing import NamedTuple

from training.mixture import Source
from training.perception.perception_tasks import PerceptionTasks
from training.rationale_writers import Thinker
from training.tasks import Tasks


class TaskEntry(NamedTuple):
    """One task."""

    name: str
    level: str  # of OneReason: token, item, relation, user; "language" for words alone
    number: int | None  # of the eight tasks of SIDReasoner
    direction: str  # given -> wanted


TASKS = (
    TaskEntry("meaning", "token", None, "code or prefix -> topics and words"),
    TaskEntry("caption", "item", 2, "SID -> caption, short prompt"),
    TaskEntry("description", "item", 2, "SID -> caption, prompt of A.3.1"),
    TaskEntry("lookup", "item", 2, "caption -> SID"),
    TaskEntry("story", "item", 6, "SIDs among the words of a text about an item or a pair"),
    TaskEntry("relation", "relation", None, "two SIDs -> their relation"),
    TaskEntry("companion", "relation", None, "SID and relation -> the other SID"),
    TaskEntry("preference", "user", 1, "SIDs of a history -> SID of the next item"),
    TaskEntry("next_title", "user", 3, "SIDs of a history -> title of the next item"),
    TaskEntry("all_names", "user", 4, "titles of a history -> title of the next item"),
    TaskEntry("named_history", "user", 5, "titles of a history -> SID of the next item"),
    TaskEntry("narrative", "user", 7, "SIDs among the words of a text about a history"),
    TaskEntry("persona", "user", None, "SIDs and words of a history -> interests"),
    TaskEntry("interests", "user", None, "SIDs of a history -> interests"),
    TaskEntry("thought", "user", None, "SIDs of a history -> thought and SID of the next item"),
    TaskEntry("general", "language", 8, "prose"),
)


def task_sources(tasks: Tasks, perception: PerceptionTasks, thinker: Thinker) -> dict[str, Source]:
    """Return the rows of every task of `TASKS`, by name."""
    return {
        "meaning": perception.meanings,
        "caption": tasks.captions,
        "description": tasks.descriptions,
        "lookup": perception.lookups,
        "story": perception.item_stories,
        "relation": perception.relations,
        "companion": perception.companions,
        "preference": tasks.preferences,
        "next_title": perception.next_titles,
        "all_names": perception.all_names,
        "named_history": perception.named_histories,
        "narrative": perception.history_stories,
        "persona": tasks.personas,
        "interests": perception.interests,
        "thought": lambda: tasks.rationales(thinker),
        "general": tasks.general,
    }
