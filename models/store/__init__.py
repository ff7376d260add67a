"""Users in Redis: events, records, the manifest, keys, and the clients that read and write them."""
