"""Benchmarks of the bridge, against a bridge as tutorials write it: see benchmarks/README.md."""
