"""CPU time, scaling and exactness of the online finish, beside `generate` of transformers."""
