from __future__ import annotations
import pytest
from phoneagent.errors import ProtocolError
from phoneagent.protocol import mediastream, realtime
from phoneagent.protocol.policy import Floor
from phoneagent.protocol.listening import CallerAudio
from phoneagent import events
from .rig import Rig, ulaw, function_call, STREAM

def test_done_after_ack_stuck():
    rig = Rig()
    rig.created(); rig.audio(100); rig.wait(.2); rig.hear(); rig.audio_done()
    assert not rig.bridge.playback.holds("i1")

def test_truncate_complete_heard():
    rig = Rig()
    rig.created(); rig.audio(100); rig.wait(.2); rig.hear(); rig.audio_done(); rig.speech()
    assert rig.truncations == []

def test_empty_delta():
    rig = Rig()
    rig.created(); rig.audio(0); rig.speech()
    assert rig.truncations == []

def test_discards_persist_after_3s():
    rig = Rig()
    rig.created(); rig.audio(100); rig.speech(); n = rig.media_ms(); rig.wait(4); rig.audio(100, "i2")
    assert rig.media_ms() == n

def test_foreign_stop():
    rig = Rig(); rig.caller(mediastream.Stop(stream_sid="MZother")); assert rig.ended is None

def test_after_end():
    rig = Rig(); rig.created(); rig.caller(mediastream.Stop(stream_sid=STREAM))
    rig.caller(mediastream.Dtmf(stream_sid=STREAM, dtmf=mediastream.DtmfDetails(digit="1")))
    rig.calls(); rig.speech()
    assert isinstance(rig.told[-1], events.CallEnded), rig.told
    assert len(rig.asked) == 1

def test_foreign_media_told_once():
    rig = Rig()
    for n in range(5): rig.media(sid="MZother")
    assert len(rig.troubles) == 1

def test_null_metadata_beta():
    rig = Rig(greeting="Hello"); rig.says(100, ours=False); rig.wait(6)
    assert len(rig.creates) == 1

def test_say_covers_turn():
    rig = Rig(barge_in=False, server_answers=False)
    rig.created(); rig.audio(); rig.speech(); rig.turn(); rig.say(); rig.audio_done(); rig.done()
    rig.says(100, "i2", "r2", ours=True)
    assert len(rig.creates) == 2

def test_say_covers_tool():
    rig = Rig()
    rig.created(); rig.calls(); rig.say(); rig.returns(); rig.done()
    rig.says(100, "i2", "r2", ours=True)
    assert len(rig.creates) == 2

def test_turn_during_requested_greeting():
    rig = Rig(greeting="Hello", server_answers=False)
    rig.speech(); rig.turn(); rig.says(100, ours=True)
    assert len(rig.creates) == 2

def test_goodbye_with_full_line():
    rig = Rig(); rig.created()
    for n in range(40): rig.say()
    rig.hang_up(); rig.done()
    assert "goodbye" in rig.prompts[-1]

def test_closing_unbounded():
    rig = Rig(); rig.hang_up()
    for n in range(40):
        rig.talk(1); rig.speech(); rig.talk(1); rig.turn()
    assert rig.ended

def test_long_timestamp():
    with pytest.raises(ProtocolError):
        m = mediastream.decode('{"event":"media","streamSid":"MZ","media":{"payload":"AAAA","timestamp":"%s"}}' % ("1" * 5000))
        Rig().caller(mediastream.Media(stream_sid=STREAM, media=m.media))

@pytest.mark.parametrize("dec", [mediastream.decode, realtime.decode])
def test_deep(dec):
    with pytest.raises(ProtocolError):
        dec('{"event":"start","type":"error","a":' + "[" * 30000)

@pytest.mark.parametrize("dec", [mediastream.decode, realtime.decode])
def test_deep2(dec):
    with pytest.raises(ProtocolError):
        dec('{"a":' + "[" * 30000 + "]" * 30000 + '}')

def test_deep3():
    with pytest.raises(ProtocolError):
        realtime.decode('{"type":"session.created","session":{"a":' + "[" * 300000 + "]" * 300000 + '}}')

@pytest.mark.parametrize("dec", [mediastream.decode, realtime.decode])
@pytest.mark.parametrize("txt", ['{"event":"dtmf","type":"x\\ud800","streamSid":"\\ud800","dtmf":{"digit":"\\udfff"}}', '\ud800', '', 'null', '[]', '{"event":1,"type":1}', '{"event":null,"type":null}'])
def test_odd(dec, txt):
    try: dec(txt)
    except ProtocolError: pass

def test_fill_cap():
    audio = CallerAudio(); audio.frame(ulaw(20), 0, 0.0); audio.speech(True)
    t = 0.0
    while (due := audio.get_timer()) is not None: audio.handle_timer(due)
    audio.frame(ulaw(20), 30000, 14.0)
    n = 0
    while audio.pop(): pass
    assert audio.sent_bytes / 8 + audio.dropped_bytes/8 <= 10_000 + 40

def test_late_transcript():
    rig = Rig(); rig.created(); rig.audio(100); rig.audio_done(); rig.wait(.2); rig.hear()
    rig.model(realtime.TranscriptDone(response_id="r1", item_id="i1", transcript="Hello there"))
    rig.done(); rig.caller(mediastream.Stop(stream_sid=STREAM))
    assert rig.told[-1].transcript[0].text == "Hello there"

def test_latency_of_protected():
    rig = Rig(barge_in=False)
    rig.created(); rig.audio(100); rig.speech(); rig.turn(); rig.audio(100)
    assert rig.events(events.AgentAnswered) == []

def test_unanswered_twice():
    rig = Rig(); rig.say(); rig.talk(10.5)
    assert rig.bridge.floor() is Floor.CLOSING or rig.ended

def test_max_call_goodbye():
    rig = Rig(max_call_seconds=60); rig.says(); rig.wait(1); rig.hear()
    rig.talk(61)
    assert rig.ended is None and "goodbye" in rig.prompts[-1]
