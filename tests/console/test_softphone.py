"""What the phone's page asks for: its answers, and what is refused. Whole calls: `end_to_end/test_browser_calls.py`."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Mapping
from datetime import UTC, datetime
from typing import Any, cast

import pytest
from pydantic import SecretStr
from starlette.routing import Router
from starlette.websockets import WebSocket

from phoneagent import Agent, Call, Transcriber
from phoneagent.agent.agent import choose, choose_answer
from phoneagent.console.access import Access
from phoneagent.console.body import JSON, MAX_BODY_BYTES
from phoneagent.console.gate import Gate
from phoneagent.console.softphone import CALLS_PATH, Softphone, turns_by_hand
from phoneagent.errors import DefinitionError, RequestRefused
from phoneagent.twilio import AFTER_PATH, BROWSER_MEDIA_PATH, STATUS_PATH, VOICE_PATH
from phoneagent.twilio.browser import is_browser_call, new_call_sid
from phoneagent.twilio.signatures import Ticket
from tests.asgi import Answer, Socket, scope

pytestmark = pytest.mark.anyio
TYPE = {"Content-Type": JSON}
TOKEN = {"Authorization": "Bearer let-me-in", **TYPE}
SID = "CAca11ca11" + "0123456789abcdef01234567"
URL = f"https://agent.example{AFTER_PATH}?faults=1&since=5"


@pytest.fixture
def anyio_backend(skipping_time: object) -> object:
    return skipping_time


class Server:
    """What the softphone asks, and an app that has it."""

    def __init__(self, *, number: str | None = "+15550100002") -> None:
        self.asked: list[tuple[str, dict[str, str]]] = []
        self.tickets: list[str] = []
        self.calls: dict[str, Call] = {}
        self.token_of = SID
        softphone = Softphone(respond=self.respond, redeem=self.redeem, run=self.run, calls=self.calls, number=number)
        gate = Gate(Access(SecretStr("let-me-in"), local=False), Router())
        self.app: Any = Router(softphone.routes(gate))

    async def respond(self, path: str, form: Mapping[str, str]) -> str:
        self.asked.append((path, dict(form)))
        return "" if path == STATUS_PATH else "<Response/>"

    async def redeem(self, token: str) -> Ticket:
        return Ticket(self.token_of, False, token)

    async def run(self, websocket: WebSocket, verified: Awaitable[Ticket]) -> None:
        try:
            self.tickets.append((await verified).call_sid)
        except RequestRefused:
            self.tickets.append("refused")

    async def post(self, path: str, body: Any = None, headers: Mapping[str, str] = TOKEN) -> Answer:
        data = body if isinstance(body, bytes) else json.dumps(body or {}).encode()
        sent: list[Any] = []

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": data, "more_body": False}

        async def send(message: Any) -> None:
            sent.append(message)

        await self.app({**scope("http", path, headers=headers), "method": "POST"}, receive, send)
        found = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
        return Answer(sent[0]["status"], found, b"".join(each.get("body", b"") for each in sent[1:]).decode())


async def test_a_call_begins_as_one_that_twilio_reports() -> None:
    server = Server()
    answer = await server.post(CALLS_PATH, {"caller": " +15550100001 ", "called": ""})
    assert (answer.status, answer.headers["cache-control"]) == (201, "no-store")
    content = json.loads(answer.text)
    assert is_browser_call(content["call_sid"])
    assert content["twiml"] == "<Response/>"
    form = {
        "Source": "browser",
        "CallSid": content["call_sid"],
        "CallStatus": "ringing",
        "Direction": "inbound",
        "From": "+15550100001",
        "To": "+15550100002",
    }
    assert server.asked == [(VOICE_PATH, form)]


async def test_without_a_caller_id_the_caller_is_a_browser() -> None:
    server = Server(number=None)
    await server.post(CALLS_PATH)
    assert (server.asked[0][1]["From"], server.asked[0][1]["To"]) == ("client:browser", "")


async def test_a_call_goes_on_with_the_query_of_its_twiml() -> None:
    server = Server()
    answer = await server.post(f"{CALLS_PATH}/{SID}", {"url": f"{URL}&CallSid=CA1&CallStatus=completed"})
    assert answer.status == 200
    ((path, form),) = server.asked
    assert path == AFTER_PATH
    assert (form["faults"], form["since"]) == ("1", "5")
    assert (form["CallSid"], form["CallStatus"]) == (SID, "in-progress"), "the query overrides nothing"


async def test_the_end_is_reported_as_twilio_does() -> None:
    server = Server()
    answer = await server.post(f"{CALLS_PATH}/{SID}", {"status": "completed"})
    assert (answer.status, answer.text) == (204, "")
    assert [(path, form["CallStatus"]) for path, form in server.asked] == [(STATUS_PATH, "completed")]


@pytest.mark.parametrize(
    ("path", "body", "status", "detail"),
    [
        (f"/{SID}", {"url": "https://agent.example/elsewhere"}, 400, "url does not end in"),
        (f"/{SID}", {"url": f"https://[{AFTER_PATH}"}, 400, "url does not end in"),
        (f"/{SID}", {"url": URL + "&a=b" * 101}, 400, "url does not end in"),
        (f"/{SID}", {"status": "ringing"}, 400, "Invalid enum value"),
        (f"/{SID}", {"other": "x"}, 400, "unknown field"),
        ("", {"caller": "1" * 257}, 400, "length <= 256"),
        ("", {"caller": None}, 400, "Expected `str`"),
        ("", b"{", 400, "the body is not JSON"),
        ("", b"\xff", 400, "the body is not JSON"),
        ("", b"", 400, "the body is not JSON"),
        ("", b" " * (MAX_BODY_BYTES + 1), 413, "send less at once"),
        ("/CA" + "5" * 32, {"status": "completed"}, 404, "this is not a call from the browser"),
    ],
)
async def test_what_cannot_be_used_is_refused(path: str, body: Any, status: int, detail: str) -> None:
    server = Server()
    answer = await server.post(CALLS_PATH + path, body)
    assert answer.status == status
    assert detail in json.loads(answer.text)["detail"]
    assert server.asked == []


async def test_without_the_token_nothing_is_asked() -> None:
    server = Server()
    for headers in (TYPE, {**TYPE, "Authorization": "Bearer let-me-out"}):
        assert (await server.post(CALLS_PATH, headers=headers)).status == 401
    assert server.asked == []


@pytest.mark.parametrize(("call_sid", "ticket"), [(SID, SID), ("CA" + "5" * 32, "refused")])
async def test_only_the_token_of_a_browsers_call_opens_its_socket(call_sid: str, ticket: str) -> None:
    server = Server()
    server.token_of = call_sid
    socket = Socket()
    await server.app(scope("websocket", f"{BROWSER_MEDIA_PATH}abc", headers=TOKEN), socket.receive, socket.send)
    assert server.tickets == [ticket]


async def test_a_socket_without_access_is_refused_before_its_token_is_read() -> None:
    server = Server()
    socket = Socket()
    await server.app(scope("websocket", f"{BROWSER_MEDIA_PATH}abc"), socket.receive, socket.send)
    assert (server.tickets, socket.did) == ([], ["close"])


# --- turns by hand ---


class Control:
    """The control of a live call, as far as turns go."""

    def __init__(self, *, manual: bool = True) -> None:
        self.did: list[str] = []
        self._manual = manual

    def clear(self) -> None:
        if not self._manual:
            raise DefinitionError("call.clear is for turns that your code marks")
        self.did.append("clear")

    def interrupt(self) -> None:
        self.did.append("interrupt")

    def commit(self) -> None:
        self.did.append("commit")

    def respond(self, instructions: str | None, tools: Any) -> None:
        self.did.append("respond")


def a_call(sid: str = SID, **parameters: str) -> Call:
    now = datetime.now(UTC)
    return Call(sid=sid, caller=None, called=None, direction="inbound", started_at=now, parameters=parameters)


async def test_the_button_marks_the_callers_turn() -> None:
    server, control = Server(), Control()
    server.calls[SID] = a_call()
    server.calls[SID].attach(cast(Any, control))
    assert (await server.post(f"{CALLS_PATH}/{SID}/turn", {"turn": "begin"})).status == 204
    assert control.did == ["clear", "interrupt"]
    assert (await server.post(f"{CALLS_PATH}/{SID}/turn", {"turn": "end"})).status == 204
    assert control.did[2:] == ["commit", "respond"]


async def test_a_turn_of_another_call_is_refused() -> None:
    server = Server()
    phone_sid = "CA" + "5" * 32
    server.calls[phone_sid] = a_call(phone_sid)
    for sid in (phone_sid, new_call_sid()):
        assert (await server.post(f"{CALLS_PATH}/{sid}/turn", {"turn": "begin"})).status == 404


async def test_a_turn_where_the_model_finds_them_is_refused() -> None:
    server, control = Server(), Control(manual=False)
    server.calls[SID] = a_call()
    server.calls[SID].attach(cast(Any, control))
    answer = await server.post(f"{CALLS_PATH}/{SID}/turn", {"turn": "begin"})
    assert (answer.status, control.did) == (409, [])


@pytest.mark.parametrize(
    ("call", "detection"),
    [
        (a_call(Turns="manual"), "manual"),
        (a_call(), "server_vad"),
        (a_call("CA" + "5" * 32, Turns="manual"), "server_vad"),
    ],
)
async def test_only_a_call_from_the_browser_chooses_manual_turns(call: Call, detection: str) -> None:
    agent = Agent(instructions="x")
    assert (await choose(turns_by_hand(agent), call)).turns.detection == detection
    assert (await choose(turns_by_hand(lambda call: agent), call)).turns.detection == detection
    assert agent.turns.detection == "server_vad"


async def test_a_transcriber_answers_telephones_as_ever_and_no_browser() -> None:
    answer = turns_by_hand(transcriber := Transcriber(dial="+15550100009"))
    assert await choose_answer(answer, a_call("CA" + "1" * 32)) is transcriber
    with pytest.raises(DefinitionError, match="this needs an agent"):
        await choose_answer(answer, a_call())


async def test_the_choice_of_turns_is_a_parameter_of_the_call() -> None:
    server = Server()
    await server.post(CALLS_PATH, {"turns": "manual"})
    await server.post(f"{CALLS_PATH}/{SID}", {"turns": "manual", "url": URL})
    assert [form["Turns"] for _, form in server.asked] == ["manual", "manual"]
