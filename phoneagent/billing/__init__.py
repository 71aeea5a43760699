"""Prices, usage and rate limits of models. Pure functions and counters, without I/O."""
