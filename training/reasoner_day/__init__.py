"""The reasoner's day: learn the events since a watermark, test them first, swap the reasoner.

cli               `python -m training reason-day`
day_run           one run: events in, a tested reasoner out
day_settings      all numbers of a day, one TOML file
timeline          events of a data folder and of the learner's log, by time
day_rows          texts to learn: alignment, activation, and a share of old events
day_gates         gates between a candidate and the night
day_work          stages of a day on disk, so that a killed one goes on
reasoner_learner  the day itself: learn, test, learn the tested, export
reasoner_release  a release or a base of a live folder with another reasoner
"""
