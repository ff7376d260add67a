"""Results tables of README and docs, written from `bench/results/*.json`.

`layout` turns rows into Markdown, `chosen` names the tables, `pages` is the command.
"""
