"""The offline tier: histories in, one night of thinking, a live generation out.

`python -m offline import` fills the histories from a data folder (`importer`); `refresh` runs a
night: `plan` decides who is due and what the new layer will be, `thinking` thinks in micro-batches,
`shards` keeps the result on disk, `live` takes it through gates, load and verification to the flip.
`rollback`, `gc`, `repair`, `erase` and `worker` look after what is live. `cli` parses and turns
errors into one line and an exit code.
"""
