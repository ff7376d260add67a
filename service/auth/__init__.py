"""API keys: their file, scopes and rates, and the middleware in front of the routes."""
