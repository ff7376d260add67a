"""API keys: the key file, scopes and rate limits, and the middleware that checks them.

`api_keys` reads the file and finds the client of a key, `key_middleware` checks each request, and
`new_key` is the command that makes a key.
"""
