"""A live call, and all live calls of a process: the I/O around the bridge, users' code, the journal, admission.

No rule of the conversation lives here: what to say, cut or ask for is decided in `bridge`.
"""
