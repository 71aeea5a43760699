"""What users write: agents, tools, hand-offs, and the handle of a live call. No sockets, and no rule of a call."""
