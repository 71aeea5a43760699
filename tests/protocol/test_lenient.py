"""One odd field costs that field, not the message: every field of every message, by every odd value."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, get_args

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types.realtime import RealtimeServerEvent

from phoneagent.errors import ProtocolError
from phoneagent.protocol import carrier, mediastream, realtime
from phoneagent.protocol.lenient import UNREADABLE, Base64, JsonText, Wire, finite_json
from phoneagent.protocol.mediastream import MediaStream
from tests.protocol.mutations import (
    ODD,
    SERVER_EVENTS,
    SID,
    TWILIO_MESSAGES,
    Path,
    mutated,
    mutations,
    paths,
    server_event,
    twilio_message,
    without,
)

# --- every message ---


def test_every_event_and_every_message_is_covered() -> None:
    assert SERVER_EVENTS.keys() == realtime.KNOWN.keys()
    assert TWILIO_MESSAGES.keys() == mediastream.KNOWN.keys()
    official = {
        get_args(kind.model_fields["type"].annotation)[0] for kind in get_args(get_args(RealtimeServerEvent)[0])
    }
    assert len(official) > 40
    for kind in official - realtime.KNOWN.keys():
        assert realtime.decode(msgspec.json.encode({"type": kind, "x": 1})) == realtime.Unknown(kind)


def parts(event: Any, path: Path) -> Any:
    """What an event holds beside that field, and beside the code that a failure takes from its type."""
    rest = {}
    for name in event.__struct_fields__:
        rest[name] = msgspec.to_builtins(getattr(event, name))
    for each in (path, (*path[:-1], "code")) if path[-1] == "type" else (path,):
        try:
            rest = without(rest, each)
        except (KeyError, TypeError, IndexError):
            continue  # the call does not need the field, so it is in no event
    return rest


@pytest.mark.parametrize("kind", SERVER_EVENTS)
def test_an_odd_field_of_a_server_event_costs_that_field(kind: str) -> None:
    message = server_event(kind)
    good = realtime.decode(msgspec.json.encode(message))
    for path, odd, text in mutations(message, "type"):
        event = realtime.decode(text.encode())
        assert type(event) is type(good) is realtime.KNOWN[kind], (path, odd)
        if path[-2:] == (0, "name"):
            assert len(event.rate_limits) < 2  # a limit without a name is none
        elif path[0] != "session":
            assert parts(event, path) == parts(good, path), (path, odd)
        for field in msgspec.structs.fields(type(event)):  # and what is left is of its type
            msgspec.convert(msgspec.to_builtins(getattr(event, field.name)), field.type)
        assert realtime.as_dict(text.encode())["type"] == kind
        msgspec.json.encode(realtime.as_dict(text.encode()))


@pytest.mark.parametrize("kind", TWILIO_MESSAGES)
def test_an_odd_field_of_a_twilio_message_costs_that_field(kind: str) -> None:
    message = twilio_message(kind)

    def decode(text: str) -> carrier.FromCarrier | None:
        return MediaStream(None if kind == "start" else SID).decode(text)

    good = decode(msgspec.json.encode(message).decode())
    for path, odd, text in mutations(message, "event"):
        if path == ("streamSid",) and odd in ("number", "fraction", "negative", "large", "text", "digits"):
            continue  # that is another stream's
        came = decode(text)
        if kind == "dtmf" and path[-1] in ("dtmf", "digit"):
            assert came is None or isinstance(came, carrier.Key), (path, odd)
        else:
            assert type(came) is type(good), (path, odd)
        if isinstance(came, carrier.AudioIn):
            assert 0 <= came.at_ms < 86_400_000 * 2, (path, odd)


def test_what_ends_something_counts_whatever_is_in_it() -> None:
    for kind in ("response.done", "input_audio_buffer.speech_stopped", "error", "response.output_item.done"):
        for fields in ({}, {"response": 7, "item": [], "error": True, "item_id": {}, "audio_end_ms": "soon"}):
            event = realtime.decode(msgspec.json.encode(server_event(kind, fields)))
            assert isinstance(event, realtime.KNOWN[kind])
    for text in ('{"event":"stop","streamSid":7,"stop":null}', '{"event":"stop","streamSid":null}', '{"event":"stop"}'):
        assert MediaStream("7").decode(text) == carrier.Stopped()
    assert MediaStream(SID).decode('{"event":"mark","mark":[],"streamSid":{}}') == carrier.Played("")


# --- what a field is taken for ---


class Inner(msgspec.Struct):
    IN_TEXT: ClassVar[str] = "word"

    word: str = ""
    least: Annotated[int, msgspec.Meta(ge=0)] = 3


class Demanding(msgspec.Struct):
    name: str
    value: float = 0


class Thing(msgspec.Struct, tag_field="kind", tag="thing", rename="camel"):
    text: str = "default"
    digit: Annotated[str, msgspec.Meta(pattern=r"^[0-9]\Z")] | None = None
    written_json: JsonText = None
    audio: Base64 = ""
    count: int = -1
    length: Annotated[float, msgspec.Meta(ge=0, le=100)] = -1
    inner: Inner | None = None
    several: list[Demanding] = []
    named: dict[str, str] = {}
    anything: Any = None


class Other(msgspec.Struct, tag_field="kind", tag="other"):
    pass


WIRE: Wire[Thing | Other] = Wire("thing", "kind", {"thing": Thing, "other": Other})


def thing(**fields: Any) -> Thing:
    read = WIRE.read(msgspec.json.encode({"kind": "thing", **fields}))
    assert isinstance(read, Thing)
    return read


@pytest.mark.parametrize(
    ("value", "taken"),
    [
        ("a", "a"),
        (503, "503"),
        (1.0, "1"),
        (1.5, "1.5"),
        (-2, "-2"),
        (True, "default"),
        (None, "default"),
        ({"a": 1}, "default"),
        ([1], "default"),
    ],
)
def test_text(value: Any, taken: str) -> None:
    assert thing(text=value).text == taken


@pytest.mark.parametrize(("value", "taken"), [("7", "7"), (7, "7"), (12, None), ("x", None), (None, None), ([], None)])
def test_text_of_a_pattern(value: Any, taken: str | None) -> None:
    assert thing(digit=value).digit == taken


@pytest.mark.parametrize(
    ("value", "taken"),
    [
        ('{"a":1}', '{"a":1}'),
        ({"a": 1}, '{"a": 1}'),
        ([1], "[1]"),
        (None, None),
        (True, None),
        ({"é": "日"}, '{"é": "日"}'),
    ],
)
def test_text_that_is_json(value: Any, taken: str | None) -> None:
    assert thing(writtenJson=value).written_json == taken


@pytest.mark.parametrize(
    ("value", "taken"),
    [
        ("AAA=", "AAA="),
        ("AAA", "AAA="),
        ("_-A", "/+A="),
        ("AA\nAA\n", "AAAA"),
        ("A", ""),
        ("A*AA", ""),
        (7, ""),
        ("", ""),
        ("AAAA==", "AAAA"),
        (None, ""),
    ],
)
def test_base64(value: Any, taken: str) -> None:
    assert thing(audio=value).audio == taken


@pytest.mark.parametrize(
    ("value", "count", "length"),
    [
        (5, 5, 5),
        ("5", 5, 5),
        (5.5, 5, 5.5),
        ("5.5", 5, 5.5),
        (-5, -5, -1),
        (101, 101, -1),
        ("soon", -1, -1),
        ("nan", -1, -1),
        (True, -1, -1),
        (None, -1, -1),
        ([5], -1, -1),
    ],
)
def test_numbers(value: Any, count: int, length: float) -> None:
    assert (thing(count=value).count, thing(length=value).length) == (count, length)


def test_objects_lists_and_what_may_be_anything() -> None:
    assert thing(inner={"word": 7, "least": -1}).inner == Inner("7")
    assert thing(inner="a word").inner == Inner("a word")
    assert thing(inner=7).inner is thing(inner=None).inner is None
    several = [{"name": "a", "value": "x"}, {"value": 1}, 7, {"name": 7, "value": "2"}]
    assert thing(several=several).several == [Demanding("a"), Demanding("7", 2)]
    assert thing(several={"name": "a"}).several == []
    assert thing(named={"a": 1, "b": None, "c": "d"}).named == {"a": "1", "c": "d"}
    assert thing(named=[1]).named == {}
    assert thing(anything=[{"a": None}]).anything == [{"a": None}]


# --- the text itself ---


@pytest.mark.parametrize(
    ("raw", "text", "anything"),
    [
        (b'{"kind":"thing","text":"\xff","anything":1}', "�", 1),
        (b'{"kind":"thing","text":"\\ud800","anything":"\\udfff"}', "?", "?"),
        (b'{"kind":"thing","text":"\\ud83d\\ude00"}', "😀", None),
        (
            b'{"kind":"thing","text":NaN,"anything":[Infinity,-Infinity,1e999,1.5,' + b"1" * 5000 + b"]}",
            "default",
            None,
        ),
    ],
)
def test_what_json_does_not_allow_costs_the_value(raw: bytes, text: str, anything: Any) -> None:
    read = WIRE.read(raw)
    assert isinstance(read, Thing)
    assert read.text == text
    assert read.anything == (anything if b"NaN" not in raw else [None, None, None, 1.5, None])


@pytest.mark.parametrize(
    ("text", "finite"),
    [
        ('{"a": 1, "b": "x"}', '{"a": 1, "b": "x"}'),
        ('{"a":NaN,"b":[Infinity,-Infinity,1e999,1.5]}', '{"a": null, "b": [null, null, null, 1.5]}'),
        ('{"name":"NaN","é":1e300}', '{"name": "NaN", "é": 1e+300}'),
        ('{"a": NaN', '{"a": NaN'),
        ("NaN" + "[" * 100_000, "NaN" + "[" * 100_000),
        ("[NaN," + "[" * 100_000, "[NaN," + "[" * 100_000),
        ("", ""),
        (None, None),
    ],
)
def test_a_number_that_json_does_not_know_is_null_in_text_too(text: str | None, finite: str | None) -> None:
    assert finite_json(text) == finite


def test_an_unknown_type_is_its_name() -> None:
    assert WIRE.read(b'{"kind":"news","text":[]}') == WIRE.read('{"kind":"news","text":NaN}') == "news"


@pytest.mark.parametrize(
    "raw", [b"", b"{", b"[1]", b"7", b'{"kind":7}', b'{"kind":null}', b"{}", b'{"kind":NaN}', b'{"a":' + b"[" * 100_000]
)
def test_what_is_no_message(raw: bytes) -> None:
    with pytest.raises(ProtocolError, match=r"^thing ignored: ") as error:
        WIRE.read(raw)
    assert len(str(error.value)) < 300


def test_the_strict_reading_takes_only_what_is_as_documented() -> None:
    assert WIRE.strict('{"kind":"other"}') == Other()
    with pytest.raises(UNREADABLE):
        WIRE.strict('{"kind":"thing","text":7}')


@given(st.sampled_from(sorted(SERVER_EVENTS)), st.data())
def test_several_odd_fields_cost_those_fields(kind: str, data: st.DataObject) -> None:
    message = server_event(kind)
    for _ in range(3):
        message.setdefault("event_id", "event_1")
        fields = [path for path in paths(message) if path != ("type",)]
        message = realtime.as_dict(
            mutated(message, *data.draw(st.tuples(st.sampled_from(fields), st.sampled_from(list(ODD)))))
        )
    assert isinstance(realtime.decode(msgspec.json.encode(message)), realtime.KNOWN[kind])
