"""The values that users write (agents, tools, hand-offs) and the handle of a live call. No sockets, no call logic."""
