"""A telephone made of a sound card: its microphone and loudspeaker in place of the simulated ones of a `Line`."""
