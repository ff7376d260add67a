"""A split of users whose items follow one another in a circle, which a model learns in seconds."""

import numpy as np

from models.catalog.catalog import Catalog
from training.split import Split, UserSplit


def circles(catalog: Catalog) -> Split:
    """Return 200 users with five items to learn from, and the sixth as validation target."""
    items, rng = catalog.item_ids, np.random.default_rng(0)
    users = []
    for number in range(200):
        first = int(rng.integers(len(items)))
        chain = [items[(first + step) % len(items)] for step in range(6)]
        users.append(UserSplit(f"u{number}", tuple(chain[:5]), chain[5]))
    return Split(tuple(users))
