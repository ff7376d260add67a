"""The third stage: check a generation before it goes live.

validate checks that it is complete; compare measures it against the night before; gates decide;
report and report_html describe the night to machines and people.
"""
