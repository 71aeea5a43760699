"""What models use, what it costs, and how much of it a provider still allows. Pure functions and counters; no I/O."""
