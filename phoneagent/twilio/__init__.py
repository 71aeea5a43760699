"""Adapters of the carrier: signatures, TwiML, the REST API, the media socket. Rules of a call live in `bridge`."""
