"""Twilio's requests and media sockets, answered: a request with TwiML, a media socket with a call that runs in it."""
