"""A telephone made from a sound card: its microphone and loudspeaker replace the simulated ones of a `Line`."""
