"""The two wires, sans-I/O: Twilio Media Streams, and the Realtime API with its session negotiation and audio.

The formats of carriers and models are known here and nowhere else. No rule of a call is here.
"""
