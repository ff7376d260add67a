"""Evaluation of an online experiment from logs of exposures and events."""
