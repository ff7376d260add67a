"""Users per second of the nightly thinking, beside a loop over `generate` of transformers."""
