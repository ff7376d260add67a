"""HTTP: routes, request and response bodies, problems, the OpenAPI document, middleware."""
