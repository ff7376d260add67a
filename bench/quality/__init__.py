"""Ranking quality of releases and reasoners; one file per command.

`ranking/` ranks the left-out item and computes the metrics; `thoughts/` samples the reasoner's
paths and keeps them on disk. `sid_quality` measures semantic ids.
"""
