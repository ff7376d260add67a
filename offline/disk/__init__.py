"""The files of a night.

shards are Parquet parts; segment is a shard in progress; outcome holds counts; generation is a
finished folder; visible_rows hides erased users; archive keeps events; lease admits one writer at a
time. Knows nothing of plans, thinking or live generations.
"""
