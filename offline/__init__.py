"""The offline tier: histories in, one night of thinking, a live generation out.

`python -m offline import` fills the histories from a data folder (`importer`); `refresh` runs a
night in stages that are commands as well: `plan` (`planning`) decides who is due and what will
come of it, `think` turns the plan's shards into parts, `validate` accounts for everybody; `live`
takes what is finished through gates, load and verification to the flip. What was stopped goes on
where it was. `rollback`, `gc`, `repair`, `erase` and `worker` look after what is live. `cli`,
`nightly` and `live_commands` parse; `exits` turns errors into one line and an exit code.
"""
