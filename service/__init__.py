"""The online tier: HTTP requests in, recommendations out, within a deadline.

A request for a recommendation passes through these modules:

    limits.connections           reads the connection; under overload rejects it or answers at once
    api.middleware               adds request id and trace, counts the request
    auth.key_middleware          checks the API key, its scope and its rate
    api.recommend_routes         validates the request
    recommend.pipeline           keeps the deadline: reads the user, climbs the ladder
    users.reader                 reads history and record of the user from the store
    recommend.ladder, climb      choose the rungs that may answer, and run them on the model thread
    api.recommendation           writes the answer

`serving` owns the state of a process and its background tasks. `app` and `admin` build the two ASGI
applications, `server` runs them, `settings` configures them and `reload` replaces the release.
`__main__` starts the service; `check` and `auth.new_key` are its other commands.

`client` is the Python client for callers; it imports no other module of this package.

A module imports only from modules further to the right:

    __main__ > app admin server check > api > serving reload settings
             > recommend > users limits > auth > telemetry > sources problems config_file
"""
