"""Data as people have them: CSV, JSON lines and Parquet of any columns, read into two tables."""
