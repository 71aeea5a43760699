"""The choice between the real and the simulated model, as `chat` and `talk` make it."""

from __future__ import annotations

from contextlib import suppress

from phoneagent import settings
from phoneagent.errors import ConfigurationError
from phoneagent.model.endpoint import Endpoint
from phoneagent.server import PhoneApp


def real_model(app: PhoneApp) -> Endpoint | None:
    """Return the app's endpoint; None if neither its code nor a setting names one, so that the model is simulated.

    Settings that only Twilio needs may be missing.

    Raises:
        ConfigurationError: a setting of the model is malformed, or some of them are missing.
    """
    with suppress(ConfigurationError):
        return app.endpoint
    loaded = settings.load({"insecure": True, "endpoint_in_code": True})
    named = (loaded.realtime_url, loaded.realtime_provider, loaded.azure_openai_endpoint, loaded.openai_api_key)
    if not any(named):
        return None
    return Endpoint.from_settings(settings.load({"insecure": True}))  # it names what is missing
