"""The protocols of a call, without I/O: no sockets, no clock, no tasks, no environment and no files in here."""
