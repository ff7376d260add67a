"""The language that both tiers share: SIDs, catalog, trie, prompts, records, store, both models.

Nothing here imports `service`, `offline`, `training` or `bench`. Import from the module that
defines the thing.
"""
