"""One recommendation inside its deadline.

`pipeline` runs a query from start to end: `experiments` says how the user is served, `ladder` which
rungs may answer, `climb` tries them on the `model_thread`, and `pages` continues a list. `engine`
is one loaded release, with its `categories`.
"""
