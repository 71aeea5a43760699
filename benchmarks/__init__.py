"""Benchmarks of the bridge, compared with a typical tutorial's bridge: see benchmarks/README.md."""
