"""The call itself, sans-I/O: every rule about what happens between a caller and a model.

Time is an argument. Nothing here reads a clock, waits, or knows a socket. `bridge.py` opens with the table that
specifies a call; each other file contains one rule or one part's state.
"""
