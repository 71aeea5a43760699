"""The control API: this process's calls and their records over HTTP, and their events as they happen."""
