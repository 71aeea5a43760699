"""The app that is measured: an agent as small as one can be, and everything on that an app has without asking."""

from phoneagent import Agent, PhoneApp

app = PhoneApp(Agent(instructions="You answer the phone of a benchmark.", greeting="Hello, this is a benchmark."))
