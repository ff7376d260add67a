"""Items and their addresses: semantic ids, the catalog, its trie, candidate sets, data folders."""
