"""Compare the COG engine with its peers: same sources, same options, a fresh process for every run.

>>> from benchmarks.compare.command import main
>>> main(["cog", "--case", "relief", "--megabytes", "20"])  # doctest: +SKIP
"""
