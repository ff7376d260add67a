"""Models that stand beside ours in the tables: SASRec, and a language model over SIDs."""
