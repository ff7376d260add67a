"""The last stage: make a generation live, and keep it.

go_live calls load (with write_rate), activate (with layers) and gc in this order. compact, repair,
erasure and status maintain the live generations; worker thinks on demand.
"""
