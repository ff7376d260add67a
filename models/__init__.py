"""The language that all tiers share: SIDs, catalog, records, store, releases, both models.

Nothing here imports `service`, `offline`, `training` or `bench`. The folders, low to high:
`catalog`, `store`, `online`, `reasoner`, `baselines`, `release`.
"""
