"""Benchmarks of the bridge under full-duplex calls, against a bridge as tutorials write it. See benchmarks/README.md."""
