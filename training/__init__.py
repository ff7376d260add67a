"""Makes releases: quantize items, train the online recommender and the reasoner, publish.

    python -m training all --data data/beauty --out releases/beauty

Reads the data folder, writes a work folder and a release. Imports `models` only.
"""
