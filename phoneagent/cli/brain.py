"""The options `--brain` and `--brain-model`: a language model in place of the simulated model's script.

brain: BrainOption = None, brain_model: BrainModelOption = None   # parameters of a command
thinker = brain_of(brain, brain_model)                            # a `Brain`, None without the option
note = await wake(thinker)                                        # finds server and model, or raises
Model(script, brain=thinker, …)
"""

from __future__ import annotations

from typing import Annotated

import typer
from pydantic import SecretStr, field_validator
from pydantic_settings import BaseSettings

from phoneagent import settings
from phoneagent.errors import ConfigurationError
from phoneagent.settings.stray import check_key, refuse_wrapping
from phoneagent.sim.model.brain import Brain, is_openai

BrainOption = Annotated[
    str | None,
    typer.Option(
        "--brain",
        metavar="URL",
        help="A chat endpoint that thinks for the simulated model, or `auto`: Ollama or llama.cpp on this machine.",
        show_default=False,
    ),
]
BrainModelOption = Annotated[
    str | None,
    typer.Option("--brain-model", metavar="NAME", help="The model there. Default: the first.", show_default=False),
]


class BrainKeys(BaseSettings):
    """The keys for a brain."""

    model_config = settings.Records.model_config

    openai_api_key: SecretStr | None = None
    """Sent to OpenAI's own hosts only."""
    brain_api_key: SecretStr | None = None
    """Sent to the endpoint that `--brain` names."""

    _sendable = field_validator("*")(check_key)
    _plain = field_validator("*", mode="before")(refuse_wrapping)


def brain_of(url: str | None, model: str | None) -> Brain | None:
    """Return the brain that the options name, with its key from the settings; None without the option.

    BRAIN_API_KEY goes to any endpoint that is named, OPENAI_API_KEY only to OpenAI's own hosts.

    Raises:
        DefinitionError: `url` is not an address.
        ConfigurationError: a model is named, but no brain.
    """
    if url is None:
        if model is not None:
            raise ConfigurationError(["--brain-model names a model of no brain: add --brain URL, or --brain auto"])
        return None
    keys = settings.read(BrainKeys)
    key = keys.brain_api_key or (keys.openai_api_key if is_openai(url) else None)
    if url == "auto":  # whatever listens there was not named
        key = None
    return Brain(url, model=model, key=None if key is None else key.get_secret_value())


async def wake(brain: Brain) -> str:
    """Have the brain's server load its model, and return one line that introduces it.

    Raises:
        BrainFailed: there is no server, no such model, or no answer.
    """
    await brain.ready()
    await brain.warm_up()
    return f"The simulated model thinks with {brain}."
