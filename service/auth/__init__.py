"""API keys: the key file, scopes and rate limits, and the middleware that checks them."""
