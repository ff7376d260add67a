"""The page of `thinkahead --help`, and the error for an unknown command."""

from difflib import get_close_matches

from thinkahead.commands import COMMANDS, FIRST


def help_page() -> str:
    width = max(map(len, COMMANDS))
    lines = ["usage: thinkahead COMMAND [OPTIONS]", ""]
    for name in FIRST:
        command = COMMANDS[name]
        lines += [f"  {name:{width}}  {command.purpose}", f"  {'':{width}}    {command.example}"]
    lines += ["", "more:"]
    lines += [
        f"  {name:{width}}  {command.purpose}"
        for name, command in COMMANDS.items()
        if name not in FIRST
    ]
    lines += ["", "`thinkahead COMMAND --help` lists the options of a command."]
    return "\n".join(lines)


def unknown(word: str) -> str:
    """Return one line that names the nearest commands."""
    close = get_close_matches(word, COMMANDS, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(close)}?" if close else f"expected {', '.join(COMMANDS)}"
    return f"thinkahead: no command {word!r}; {hint}"
