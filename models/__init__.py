"""The language that both tiers share: semantic ids, catalog, trie, prompts, records, store, releases and the two models.

Nothing here imports `service`, `offline`, `training` or `bench`. Import from the module that defines the thing.
"""
