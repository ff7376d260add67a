"""Truth of the reasons that a real service gives for its items, step by step and by deletion."""
