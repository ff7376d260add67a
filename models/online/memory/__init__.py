"""The memory of the online model: counts of item pairs, neighbours, and evidence in the search."""
