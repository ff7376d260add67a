"""The reasoner: prompts, constrained beam search, thoughts, and the engines that run it."""
