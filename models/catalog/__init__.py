"""Items and their addresses: SIDs, the catalog, its trie, candidates and data folders."""
