"""Events on disk: parts of the archive and of the learner's log, and tombstones of erased users."""
