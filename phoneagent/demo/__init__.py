"""The offline demonstration: a scripted call against the real app, shown live, with its report and picture."""
