"""The second stage: think about the users of a plan.

engines loads the reasoner; micro_batch thinks about one micro-batch; think_shards works through
the shards of a plan. estimate thinks about a sample only.
"""
