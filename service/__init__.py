"""The online tier: HTTP in, recommendations out, inside a deadline.

A request reads from the top down: `routes` validates, `pipeline` keeps the deadline, `users` reads
one user's history and record (past `breaker`, falling back to `copies`), `ladder` decides which
rungs may answer and climbs them, at the `pace` that they have shown, on the thread of `worker`.
`manifest` keeps up with the night, `reload` with new releases, `outbox` holds events while the
store is away, `metrics` counts, `problems` words every error, `serving` holds all of it, `app` puts
it behind HTTP and `__main__` runs it.

`client` is the other side: what a backend that wants recommendations calls, with nothing of the
above behind it.
"""
