"""The offline demonstration: a scripted call against the real app, shown live, with its report and picture.

It drives the real app from outside; nothing that a call needs lives here.
"""
