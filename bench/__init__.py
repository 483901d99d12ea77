"""Benchmarks: `python -m bench.peers` compares with other libraries, `asv run` (asv.conf.json) follows the project."""
