"""Table 1 of the paper: baselines beside ours, trained within one budget and judged alike.

Networks come from RecBole, RecTools and transformers where these have them. The histories, the
training loop, the choice of settings and the judge are ours, the same for all. The libraries are in
an environment of their own: `make baselines`.
"""
