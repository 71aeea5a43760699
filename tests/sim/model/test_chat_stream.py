"""The stream of a chat completion: tool calls in the spellings of several servers, thoughts, limits."""

from __future__ import annotations

import pytest

from phoneagent.sim.model import chat_stream
from phoneagent.sim.model.chat_stream import BadStream, ChatStream, ToolCall
from tests.sim.model.chat_server import call_piece, event, words


def read(*events: bytes) -> tuple[str, ChatStream]:
    stream = ChatStream()
    lines = b"".join(events).splitlines()
    return "".join(stream.feed(line) for line in lines), stream


def test_comments_and_other_fields_are_passed_over() -> None:
    text, stream = read(b": PROCESSING\n\n", b"event: message\n", words("Hi"), b"data: [DONE]\n\n")
    assert (text, stream.ended) == ("Hi", True)


def test_the_last_event_of_some_servers_has_figures_and_no_choice() -> None:
    text, stream = read(words("Hi", finish="stop"), b'data: {"choices": [], "usage": {"total_tokens": 3}}\n\n')
    assert (text, stream.ended) == ("Hi", True)


def test_a_call_split_over_events_is_one() -> None:
    _, stream = read(call_piece("", name="book", key="a"), call_piece('{"gue'), call_piece('sts": 4}'))
    assert stream.calls == [ToolCall("book", '{"guests": 4}', "a")]


def test_two_calls_whose_pieces_alternate() -> None:
    one, two = call_piece("{", name="a", key="1"), call_piece("[", name="b", key="2", index=1)
    _, stream = read(one, two, call_piece("}"), call_piece("]", index=1))
    assert [(call.name, call.arguments) for call in stream.calls] == [("a", "{}"), ("b", "[]")]


def test_whole_calls_that_all_have_the_number_zero() -> None:
    _, stream = read(call_piece("{}", name="a", key="1"), call_piece("{}", name="b", key="2"))
    assert [(call.name, call.arguments) for call in stream.calls] == [("a", "{}"), ("b", "{}")]


@pytest.mark.parametrize("index", [0, None])
@pytest.mark.parametrize("second", ["a", "b"])
def test_whole_calls_without_ids_are_as_many_calls(index: int | None, second: str) -> None:
    pieces = [{"function": {"name": name, "arguments": '{"n": 1}'}, "index": index} for name in ("a", second)]
    _, stream = read(event({"tool_calls": pieces}))
    assert [(call.name, call.arguments) for call in stream.calls] == [("a", '{"n": 1}'), (second, '{"n": 1}')]


def test_a_name_that_is_repeated_begins_no_other_call() -> None:
    with_id = [call_piece(part, name="a", key="1") for part in ('{"n":', " 1}", "")]
    without = [call_piece(part, name="b", index=1) for part in ("", '{"n":', " 2}")]
    _, stream = read(*with_id, *without)
    assert [(call.name, call.arguments) for call in stream.calls] == [("a", '{"n": 1}'), ("b", '{"n": 2}')]


def test_arguments_that_are_an_object_become_text() -> None:
    piece = {"function": {"name": "book", "arguments": {"guests": 4}}, "id": "1"}
    _, stream = read(event({"tool_calls": [piece]}))
    assert stream.calls == [ToolCall("book", '{"guests":4}', "1")]


@pytest.mark.parametrize(
    ("pieces", "text"),
    [
        (["<thi", "nk>Well, ", "hm.</th", "ink>\n\nHello", " there"], "Hello there"),
        (["\n<think>", "</think>Hi"], "Hi"),
        (["<think>and on"], ""),
        (["<b", "old> words"], "<bold> words"),
        (["<th"], "<th"),
    ],
)
def test_thoughts_are_left_out(pieces: list[str], text: str) -> None:
    assert read(*map(words, pieces), event({}, finish="stop"), b"data: [DONE]\n\n")[0] == text


def test_an_answer_without_end_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat_stream, "MAX_ANSWER_CHARS", 10)
    _, stream = read(words("word "), words("word "), words("!"))
    assert stream.ended
    assert stream.cut_short


def test_thoughts_have_a_limit_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat_stream, "MAX_ANSWER_CHARS", 10)
    text, stream = read(words("<think>a long thought"), words(" indeed</think>Hi"), words(" there"))
    assert (text, stream.cut_short) == ("Hi there", False)
    monkeypatch.setattr(chat_stream, "MAX_THOUGHT_CHARS", 20)
    assert read(words("<think>a long thought"))[1].cut_short


def test_calls_without_end_are_refused() -> None:
    with pytest.raises(BadStream, match="more than 16 tool calls"):
        read(*(call_piece("{}", name="a", key=str(number), index=number) for number in range(17)))


@pytest.mark.parametrize(
    "line", [b"data: 5", b"data: {", b'data: {"choices": 3}', b'data: {"choices": [{"delta": {"content": 3}}]}']
)
def test_what_is_no_chat_event_is_refused_by_its_words(line: bytes) -> None:
    with pytest.raises(BadStream, match="no chat event"):
        read(line)


def test_a_call_needs_a_name() -> None:
    with pytest.raises(BadStream, match="without a name"):
        read(call_piece("{}"))
