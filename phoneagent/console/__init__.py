"""The control API: the calls of this process and their records over HTTP, and their events as they happen."""
