"""User data in Redis: events, records, manifest and keys, and the clients for them.

Start with `contract` (the methods of a store) and `keys` (its layout). `redis_store` implements the
contract on `connection`, with `appends`, `upkeep`, `queues`, `log_stream` and `item_feed`. Below
it, `topology` finds the servers and `wire` carries the commands. `embedded` and `watcher` run a
server of our own.
"""
