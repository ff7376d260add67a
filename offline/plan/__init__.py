"""The first stage: decide which users the night thinks about.

importer reads histories; due chooses users and cuts them into micro-batches; carried_rows finds
the rows that stay as they are; make_plan puts a plan together; plan_file keeps it on disk.
"""
