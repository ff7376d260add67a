"""The one command `thinkahead`: a table of subcommands, each an entry point of another package.

    __main__      dispatch
    commands      the table
    help_page     `thinkahead --help`
    train, serve, night, learn    the tiers' commands with the defaults of a first use
    status_page   `thinkahead status`
    library       the same for Python, in one process: read, train, Recommender
    completion    `thinkahead completion bash|zsh|fish`, from options.json

Only the module of the command that runs is imported. Nothing imports this package.
"""
