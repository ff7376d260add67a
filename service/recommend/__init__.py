"""One recommendation inside its deadline: the pipeline, the ladder of sources, the engine."""
