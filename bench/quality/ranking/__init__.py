"""Rank of the left-out item in the whole catalog: prefix sets, both tiers, metrics, intervals."""
