"""`phoneagent sim`: the simulators as commands."""

from __future__ import annotations

from phoneagent.cli.commands import Entry, group

sim = group(
    "The offline world: a Twilio phone, Twilio's REST API, and a Realtime model.",
    {
        "call": Entry("phoneagent.cli.sim_call", "Call a server as Twilio would, and say the given lines."),
        "rest": Entry("phoneagent.cli.sim_rest", "Serve Twilio's REST API for one account."),
        "script": Entry("phoneagent.cli.sim_script", "Write a commented script for an agent."),
        "model": Entry("phoneagent.cli.sim_model", "Serve the simulated Realtime model, which follows a script."),
    },
)
