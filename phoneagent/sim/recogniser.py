"""Offline recognition of English telephone speech: Moonshine tiny, run by plain onnxruntime.

The weights come inside the wheel `moonshine-voice==0.1.0` (MIT; part of the extra `demo`). Only the package's files are
read; its code is not imported. On human speech at telephone quality, about one word in fifty is wrong.
"""

from __future__ import annotations

import asyncio
import functools
import importlib.util
import logging
import re
import threading
import time
from pathlib import Path
from typing import Any

from phoneagent.protocol.audio import BYTES_PER_MS, decode_ulaw, rms

log = logging.getLogger(__name__)

MAX_TURN_SECONDS = 30
"""How much of the end of a turn is transcribed: the model was not trained on longer audio."""

MIN_TURN_MS = 250
"""Shorter audio contains no word, and is too short for the encoder's windows."""

_MIN_RMS = 30  # RMS out of 32767; from silence the model makes the word "You"
_SAMPLE_RATE = 16000
_TOKENS_PER_SECOND = 6.5
_START, _END = 1, 2


class MoonshineEar:
    """Recognizes speech with Moonshine tiny, one turn at a time, in a thread.

    `limit_seconds` bounds one turn, including the wait. A turn that takes longer yields "". The first turn loads the
    weights, unless `warm_up` already has.
    """

    def __init__(self, *, limit_seconds: float = 6.0) -> None:
        self._limit_seconds = limit_seconds

    @staticmethod
    def available() -> bool:
        """Return whether the extra `demo` is installed and has the weights."""
        modules = ("onnxruntime", "numpy", "soxr")
        return _weights() is not None and all(importlib.util.find_spec(module) for module in modules)

    async def warm_up(self) -> None:
        """Load the weights now, so the first turn does not wait for them. It takes about half a second."""
        await asyncio.to_thread(_moonshine)

    async def hear(self, ulaw: bytes) -> str:
        deadline = time.monotonic() + self._limit_seconds
        try:
            async with asyncio.timeout(self._limit_seconds):
                return await asyncio.to_thread(_transcribe, ulaw, deadline)
        except TimeoutError:
            log.warning(
                "a turn of %d ms was not understood within %.1f s; it is taken as empty",
                len(ulaw) // 8,
                self._limit_seconds,
            )
            return ""


def _transcribe(ulaw: bytes, deadline: float) -> str:
    import numpy
    import soxr

    ulaw = ulaw[-MAX_TURN_SECONDS * 8000 :]
    if len(ulaw) < MIN_TURN_MS * BYTES_PER_MS or rms(ulaw) < _MIN_RMS:
        return ""
    model, lock = _moonshine()
    pcm: Any = numpy.frombuffer(decode_ulaw(ulaw), "<i2")
    samples = soxr.resample(pcm.astype(numpy.float32) / 32768, 8000, _SAMPLE_RATE)
    with lock:
        tokens = model.run(samples, deadline)
    return str(model.spell(without_loops(tokens)))


def without_loops(tokens: list[int]) -> list[int]:
    """Cut an answer that loops, as the model's answers do on music: a phrase that occurs three times is kept once.

    Only repeats of six tokens or more in all count, so a telephone number keeps its digits.
    """
    for start in range(len(tokens)):
        for length in range(1, (len(tokens) - start) // 3 + 1):
            phrase = tokens[start : start + length]
            repeats = 1
            while tokens[start + repeats * length : start + (repeats + 1) * length] == phrase:
                repeats += 1
            if repeats >= 3 and repeats * length >= 6:
                return tokens[: start + length]
    return tokens


@functools.cache
def _moonshine() -> tuple[_Moonshine, threading.Lock]:
    """Load the weights once per process, with the lock that admits one turn at a time."""
    folder = _weights()
    if folder is None:
        raise ModuleNotFoundError("moonshine-voice 0.1.0 is not installed: pip install 'phoneagent[demo]'")
    return _Moonshine(folder), threading.Lock()


def _weights() -> Path | None:
    """Return the folder of the weights, without importing the package that contains them."""
    spec = importlib.util.find_spec("moonshine_voice")
    if spec is None or spec.origin is None:
        return None
    folder = Path(spec.origin).parent / "assets" / "tiny-en"
    return folder if (folder / "tokenizer.bin").is_file() else None


class _Moonshine:
    """The encoder, the decoder with its cache of keys and values, and the vocabulary."""

    def __init__(self, folder: Path) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # leaves the processor to the call
        options.log_severity_level = 3

        def load(name: str) -> Any:
            return onnxruntime.InferenceSession(str(folder / name), options, providers=["CPUExecutionProvider"])

        self._encoder = load("encoder_model.ort")
        self._decoder = load("decoder_model_merged.ort")
        self._outputs = [output.name for output in self._decoder.get_outputs()]
        self._cache_shapes = {
            i.name: (1, i.shape[1], 0, i.shape[3]) for i in self._decoder.get_inputs() if i.name.startswith("past")
        }
        self._pieces = _read_vocabulary((folder / "tokenizer.bin").read_bytes())

    def run(self, samples: Any, deadline: float) -> list[int]:
        """Return the tokens of float samples at 16 kHz, or those found by the monotonic time `deadline`."""
        import numpy

        audio = samples.reshape(1, -1).astype(numpy.float32)
        mask = numpy.ones(audio.shape, numpy.int64)
        hidden = self._encoder.run(None, {"input_values": audio, "attention_mask": mask})[0]
        past = {name: numpy.zeros(shape, numpy.float32) for name, shape in self._cache_shapes.items()}
        tokens: list[int] = []
        token = _START
        for step in range(int(audio.shape[1] / _SAMPLE_RATE * _TOKENS_PER_SECOND) + 1):
            if time.monotonic() > deadline:
                break
            inputs = {
                "input_ids": numpy.asarray([[token]], numpy.int64),
                "encoder_hidden_states": hidden,
                "encoder_attention_mask": mask,
                "use_cache_branch": numpy.asarray([step > 0]),
                **past,
            }
            results = dict(zip(self._outputs, self._decoder.run(None, inputs), strict=True))
            token = int(results["logits"][0, -1].argmax())
            if token == _END:
                break
            tokens.append(token)
            for name in past:
                # Once the cache is in use the encoder's keys come back empty, so keep those of the first step.
                if step == 0 or ".decoder." in name:
                    past[name] = results[name.replace("past_key_values", "present")]
        return tokens

    def spell(self, tokens: list[int]) -> str:
        """Return the words of `tokens`."""
        text = b"".join(self._pieces[token] for token in tokens if token < len(self._pieces))
        return re.sub(r"<[^>]*>", "", text.decode("utf-8", errors="replace").replace("\u2581", " ")).strip()


def _read_vocabulary(data: bytes) -> list[bytes]:
    """Read the pieces, each after its length: one byte, or two (low seven bits first) from 128 on."""
    pieces = []
    at = 0
    while at < len(data):
        length = data[at]
        at += 1
        if length >= 128:
            length += (data[at] - 1) * 128
            at += 1
        pieces.append(data[at : at + length])
        at += length
    return pieces
