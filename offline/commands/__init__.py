"""The command line of the night.

cli holds the parser and main; nightly has plan, think, validate, refresh and retry-dead;
live_commands has all others; options the shared arguments; exits the exit codes and signals.
"""
