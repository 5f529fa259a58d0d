"""Evidence: one verified folder of Parquet files a run, and the tables of what is learnt later.

Rule: a pack is whole or absent, and never changes after its commit. The table definitions in
`packs.tables` are the one source of the Arrow schema, the Pandera model and the fast check.
"""
