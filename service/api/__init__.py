"""The HTTP API: routes, request and response schemas, middleware, OpenAPI document.

The `*_routes` modules are thin: they validate with `requests`, `event_bodies` and `params`, call
`serving`, and answer with the schemas of `responses`. `recommendation` writes a recommendation,
`popular_answers` the precomputed one of the lowest rung. `openapi` completes the documentation.
"""
