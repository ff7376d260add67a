"""Users as this process knows them, with or without the store.

`reader` makes every call to the store for a user, behind `breaker`. `local_state` is kept by this
process between requests. `manifest_watch` follows the live generations.
"""
