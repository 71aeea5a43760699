"""The pure parts of the browser's phone, run by Node: µ-law, sample rates, a bad line, marks, and the protocol."""

from __future__ import annotations

import json
import math
import re
import shutil
import subprocess
from collections.abc import Callable
from typing import Any

import pytest

from phoneagent.console.files import FOLDER
from phoneagent.protocol.audio import decode_ulaw, encode_ulaw
from phoneagent.protocol.carrier import AudioIn, Key, Played, Started, Stopped
from phoneagent.protocol.mediastream import MediaStream
from tests.patience import HANG_SECONDS

NODE = shutil.which("node")
pytestmark = [
    pytest.mark.real_time,
    pytest.mark.skipif(NODE is None, reason="no Node is installed; the tests of the browser play whole calls"),
]
MODULES = ("phone-audio.js", "phone-playout.js", "phone-stream.js")

Run = Callable[[str], Any]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Run JavaScript in which the modules are `audio`, `playout` and `stream`; return what it passes to `done`."""
    folder = tmp_path_factory.mktemp("scripts")
    (folder / "package.json").write_text('{"type": "module"}')
    for name in MODULES:
        shutil.copy(FOLDER / name, folder)

    def run(code: str) -> Any:
        lines = [f'import * as {name.split("-")[1].removesuffix(".js")} from "./{name}";' for name in MODULES]
        lines.append("const done = (result) => console.log(JSON.stringify(result));")
        (folder / "main.js").write_text("\n".join([*lines, code]))
        assert NODE is not None
        ran = subprocess.run([NODE, "main.js"], cwd=folder, capture_output=True, text=True, timeout=HANG_SECONDS)
        assert ran.returncode == 0, ran.stderr
        return json.loads(ran.stdout)

    return run


def test_mu_law_is_that_of_the_telephone(run: Run) -> None:
    encoded, decoded = run("""
      const encoded = [];
      for (let value = -32767; value <= 32767; value += 1) encoded.push(audio.encode(value / 32767));
      const decoded = Array.from({ length: 256 }, (_, byte) => Math.round(audio.decode(byte) * 32768));
      done([encoded, decoded]);
    """)
    pcm = b"".join(value.to_bytes(2, "little", signed=True) for value in range(-32767, 32768))
    assert bytes(encoded) == encode_ulaw(pcm)
    expected = memoryview(decode_ulaw(bytes(range(256)))).cast("h")
    assert decoded == list(expected)


def test_what_is_too_loud_is_clipped(run: Run) -> None:
    assert run("done([audio.encode(7), audio.encode(1), audio.encode(-7), audio.encode(-1)])") == [128, 128, 0, 0]


@pytest.mark.parametrize(
    ("source", "target"), [(48000, 8000), (44100, 8000), (8000, 48000), (8000, 44100), (8000, 8000)]
)
def test_another_rate_keeps_a_tone_and_its_length(run: Run, source: int, target: int) -> None:
    samples = run(f"""
      const resampler = new audio.Resampler({source}, {target});
      const result = [];
      const out = new Float32Array(128);
      const sine = (at) => Math.sin(2 * Math.PI * 1000 * at / {source});
      for (let at = 0; at < {source}; at += 128) {{
        resampler.push(Float32Array.from({{ length: 128 }}, (_, i) => sine(at + i)));
        let count = resampler.pull(out);
        for (; count > 0; count = resampler.pull(out)) result.push(...out.subarray(0, count));
      }}
      done(result);
    """)
    assert abs(len(samples) - target) < target / 50
    middle = samples[target // 4 : target * 3 // 4]
    sine, cosine = (
        sum(each * wave(2 * math.pi * 1000 * at / target) for at, each in enumerate(middle)) * 2 / len(middle)
        for wave in (math.sin, math.cos)
    )
    assert math.hypot(sine, cosine) == pytest.approx(1, abs=0.02)
    rest = sum(
        (each - sine * math.sin(2 * math.pi * 1000 * at / target) - cosine * math.cos(2 * math.pi * 1000 * at / target))
        ** 2
        for at, each in enumerate(middle)
    ) / len(middle)
    assert rest < 1e-5, "50 dB below the tone"


def test_what_eight_kilohertz_cannot_carry_is_left_out(run: Run) -> None:
    power = run("""
      const resampler = new audio.Resampler(48000, 8000);
      resampler.push(Float32Array.from({ length: 8000 }, (_, i) => Math.sin(2 * Math.PI * 6000 * i / 48000)));
      const out = new Float32Array(1000);
      const count = resampler.pull(out);
      done(out.subarray(100, count).reduce((sum, each) => sum + each * each, 0) / (count - 100));
    """)
    assert power < 1e-6


def test_what_is_needed_is_enough_and_no_more(run: Run) -> None:
    assert run("""
      const results = [];
      for (const rate of [48000, 44100, 32000, 8000]) {
        const resampler = new audio.Resampler(8000, rate);
        const out = new Float32Array(128);
        for (let round = 0; round < 2000; round += 1) {
          const needed = resampler.needs(128);
          resampler.push(new Float32Array(needed));
          results.push(resampler.pull(out) === 128 && resampler.needs(1) <= 1);
        }
      }
      done(results.every(Boolean));
    """)


def test_a_line_delays_loses_and_adds_noise(run: Run) -> None:
    delayed, lost, noisy = run("""
      const ones = (count) => new Float32Array(count).fill(1);
      const late = new audio.Line();
      late.set({ delay: 20 });
      const delayed = ones(400);
      late.pass(delayed);
      const draws = [0.5, 0.05, 0.5];
      const lossy = new audio.Line(() => draws.shift());
      lossy.set({ loss: 0.1 });
      const lost = ones(480);
      for (let at = 0; at < 480; at += 40) lossy.pass(lost.subarray(at, at + 40));
      const noise = new audio.Line(() => 1);
      noise.set({ noise: 1 });
      const noisy = new Float32Array(1);
      noise.pass(noisy);
      done([[...delayed], [...lost], noisy[0]]);
    """)
    assert delayed == [0] * 160 + [1] * 240
    assert lost == [1] * 160 + [0] * 160 + [1] * 160
    assert noisy == pytest.approx(0.05)


PLAYING = """
  const queue = new playout.Playout();
  const bytes = (ms) => new Uint8Array(8 * ms).fill(0x80);
  let now = 0;
  const log = [];
  const play = (ms) => {
    for (let at = 0; at < ms; at += 10) {
      const heard = queue.take(new Float32Array(80), now);
      now += 0.01;
      const due = queue.due(now);
      if (due.length > 0) log.push([Math.round(now * 1000), ...due]);
      void heard;
    }
  };
"""


def test_a_mark_comes_back_when_the_audio_before_it_was_played(run: Run) -> None:
    assert run(
        PLAYING
        + """
      queue.mark("at once");
      play(10);
      queue.media(bytes(100));
      queue.mark("one");
      queue.mark("two");
      queue.media(bytes(50));
      queue.mark("three");
      play(200);
      done(log);
    """
    ) == [[10, "at once"], [110, "one", "two"], [160, "three"]]


def test_a_mark_waits_for_the_loudspeaker(run: Run) -> None:
    assert run("""
      const queue = new playout.Playout();
      queue.media(new Uint8Array(800));
      queue.mark("one");
      queue.take(new Float32Array(800), 0.25); // heard a quarter of a second later
      done([queue.due(0.3), queue.due(0.34), queue.due(0.351)]);
    """) == [[], [], ["one"]]


def test_a_clear_drops_the_rest_and_returns_all_marks(run: Run) -> None:
    assert run(
        PLAYING
        + """
      queue.media(bytes(200));
      queue.mark("one");
      queue.media(bytes(200));
      queue.mark("two");
      play(100);
      const names = queue.clear();
      const left = queue.queued;
      queue.mark("after");
      queue.media(bytes(50));
      queue.mark("last");
      play(100);
      done([names, left, log]);
    """
    ) == [["one", "two"], 0, [[110, "after"], [150, "last"]]]


def test_a_gap_of_the_network_makes_the_wait_longer(run: Run) -> None:
    waits, underruns = run(
        PLAYING
        + """
      const waits = [];
      for (const pause of [100, 100, 100, 100, 100, 400]) {
        queue.media(bytes(250));
        waits.push(queue.wait / 8);
        play(250 + pause);
      }
      queue.media(bytes(250));
      done([[...waits, queue.wait / 8], queue.underruns]);
    """
    )
    assert waits == [40, 80, 160, 200, 200, 200, 200]
    assert underruns == 5, "400 ms are a pause"


def test_little_audio_is_played_after_the_wait(run: Run) -> None:
    assert run(
        PLAYING
        + """
      queue.media(bytes(10));
      queue.mark("short");
      play(100);
      done(log);
    """
    ) == [[50, "short"]]


def test_the_queue_is_bounded(run: Run) -> None:
    assert run("""
      const queue = new playout.Playout();
      for (let count = 0; count < 40; count += 1) queue.media(new Uint8Array(1_000_000));
      done(queue.queued <= playout.MAX_QUEUED);
    """)


def test_the_messages_are_those_of_a_phone(run: Run) -> None:
    messages = run("""
      const writer = new stream.Writer("MZ1", "CA1");
      const payload = stream.base64Of(new Uint8Array(160).fill(255));
      done([
        writer.connected(), writer.start({ caller: "+15550100001" }), writer.media(payload), writer.media(payload),
        writer.dtmf("#"), writer.mark("m1"), writer.stop(),
      ]);
    """)
    codec = MediaStream()
    read = [codec.decode(each) for each in messages]
    started = read[1]
    assert read[0] is None
    assert isinstance(started, Started)
    assert (started.stream_sid, started.call_sid, started.parameters) == ("MZ1", "CA1", {"caller": "+15550100001"})
    assert started.audio == ("audio/x-mulaw", 8000, 1)
    assert isinstance(read[2], AudioIn)
    assert [each.at_ms for each in read[2:4] if isinstance(each, AudioIn)] == [0, 20]
    assert read[4:] == [Key("#"), Played("m1"), Stopped()]
    assert [json.loads(each)["sequenceNumber"] for each in messages[1:]] == ["1", "2", "3", "4", "5", "6"]


def test_the_servers_messages_are_read(run: Run) -> None:
    found = run("""
      const media = { event: "media", streamSid: "MZ1", media: { payload: "gIE=" } };
      const texts = [
        JSON.stringify(media),
        JSON.stringify({ event: "mark", streamSid: "MZ1", mark: { name: "m" } }),
        JSON.stringify({ event: "clear", streamSid: "MZ1" }),
        JSON.stringify({ ...media, streamSid: "MZ2" }),
        JSON.stringify({ ...media, media: { payload: "not base64!" } }),
        JSON.stringify({ event: "mark", streamSid: "MZ1" }),
        "null", "{", "[]",
      ];
      const plain = (each) => each?.media ? { media: [...each.media] } : each;
      done(texts.map((text) => plain(stream.read(text, "MZ1"))));
    """)
    assert found == [{"media": [128, 129]}, {"mark": "m"}, {"clear": True}, *[None] * 6]


def test_a_sid_has_twilios_form(run: Run) -> None:
    assert re.fullmatch("MZ[0-9a-f]{32}", run('done(stream.newSid("MZ"))'))
