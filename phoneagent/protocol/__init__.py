"""The two wires, sans-I/O: Twilio Media Streams, and the Realtime API with its session negotiation and audio.

Each carrier's and each model's spelling is known here and nowhere else. No rule of a call lives here.
"""
