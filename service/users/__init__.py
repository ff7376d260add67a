"""Users as this process knows them, with or without the store.

`reader` makes every call to the store for a user, behind `breaker`. `local_state` is what this
process keeps of users. `manifest_watch` follows which generations are live.
"""
