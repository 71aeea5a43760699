"""The doctor, against the simulated world: green when all is well, and each planted fault named with its remedy."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket

from phoneagent import Agent, ConfigurationError, Endpoint, PhoneApp, Settings, Transcriber
from phoneagent.doctor import Check, Status, examine, settings_missing
from phoneagent.doctor.models import check_shutdown
from phoneagent.doctor.telephone import check_clock
from phoneagent.sim import Faults, Model, TwilioRest, serving
from phoneagent.twilio.twiml import connect_stream

pytestmark = pytest.mark.anyio

ACCOUNT, TOKEN, PUBLIC = "AC" + "1" * 32, "the-auth-token-of-a-test", "https://agent.example/base"
NUMBER, VOICE = "+15550100002", PUBLIC + "/twilio/voice"
KEY = "sk-a-key-of-a-test"


@dataclass
class World:
    """Everything that the doctor looks at, in good health. Plant a fault, then `report`."""

    rest: TwilioRest
    database: Path
    number: str = ""
    model: dict[str, Any] = field(default_factory=dict)
    app: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    served: Any = None

    def made(self, **changes: Any) -> Settings:
        given = {
            "twilio_account_sid": ACCOUNT,
            "twilio_auth_token": TOKEN,
            "twilio_phone_number": NUMBER,
            "twilio_api_url": self.rest.url,
            "public_url": PUBLIC,
            "database_url": f"sqlite:///{self.database}",
            **changes,
        }
        return Settings(**given)

    async def report(self) -> dict[str, Check]:
        """Examine the world; the checks by name."""
        async with AsyncExitStack() as stack:
            model = await stack.enter_async_context(Model(api_key=KEY, **self.model))
            endpoint = {"realtime_url": model.url, "realtime_api_key": KEY}
            app = self.served or PhoneApp(
                Agent(instructions="Be brief.", greeting="Hello!"), settings=self.made(**endpoint, **self.app)
            )
            address = await stack.enter_async_context(serving(app))
            checks = [check async for check in examine(self.made(**endpoint | self.settings), local=address)]
            if isinstance(app, PhoneApp):
                assert not app.calls, "no call was started"
            assert not any(session.responses for session in model.sessions), "nothing was spoken"
        for check in checks:
            assert TOKEN not in check.text
            assert KEY not in check.text
            assert NUMBER not in check.text
            assert "\n" not in check.text
        return {check.name: check for check in checks}

    async def only_fault(self, name: str) -> str:
        """Examine the world; exactly the check `name` fails. Returns its words."""
        checks = await self.report()
        assert [check.name for check in checks.values() if check.status is Status.FAILED] == [name], checks
        return checks[name].text


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with TwilioRest(account_sid=ACCOUNT, auth_token=TOKEN) as rest:
        made = World(rest, tmp_path / "calls.db")
        made.number = rest.add_number(NUMBER, voice_url=VOICE)
        yield made
        assert rest.violations == []


async def test_all_is_well(world: World) -> None:
    world.rest.numbers[world.number]["voice_url"] += "#rc=2&rp=5xx"
    checks = await world.report()
    assert [(check.name, check.status) for check in checks.values()] == [
        (name, Status.OK)
        for name in (
            "settings",
            "Twilio",
            "clock",
            "number",
            "calling out",
            "webhook",
            "media socket",
            "model",
            "database",
        )
    ]


async def test_a_number_need_not_be_named(world: World) -> None:
    world.settings["twilio_phone_number"] = None
    assert (await world.report())["number"].status is Status.SKIPPED


# --- Twilio ---


@pytest.mark.parametrize(
    "fault", [{"twilio_auth_token": "another-auth-token"}, {"twilio_account_sid": "AC" + "2" * 32}]
)
async def test_wrong_credentials(world: World, fault: dict[str, str]) -> None:
    world.settings |= fault
    world.app |= fault  # the app has them from the same .env
    checks = await world.report()
    assert checks["Twilio"].status is Status.FAILED
    assert "check TWILIO_ACCOUNT_SID and TWILIO_AUTH_TOKEN" in checks["Twilio"].text
    assert checks["clock"].status is checks["number"].status is Status.SKIPPED
    assert checks["webhook"].status is Status.OK, "the rest is looked at all the same"


async def test_whether_calls_can_be_made(world: World) -> None:
    assert "US may be called" in (await world.report())["calling out"].text
    world.rest.permitted = ("+44",)
    found = (await world.report())["calling out"]
    assert found.status is Status.NOTE
    assert "Geo permissions" in found.text
    world.rest.permitted = ("+",)
    del world.rest.numbers[world.number]
    found = (await world.report())["calling out"]
    assert (found.status, "nor verified" in found.text) == (Status.NOTE, True)
    world.rest.caller_ids.append(NUMBER)
    assert (await world.report())["calling out"].status is Status.OK


async def test_a_suspended_account(world: World) -> None:
    world.rest.account["status"] = "suspended"
    assert "the account is suspended" in await world.only_fault("Twilio")


async def test_a_trial_account_is_said_to_be_one(world: World) -> None:
    world.rest.account["type"] = "Trial"
    assert "only verified callers" in (await world.report())["Twilio"].text


@pytest.mark.parametrize(("skew", "words"), [(3600, "behind"), (-3600, "ahead of")])
async def test_a_wrong_clock(world: World, skew: float, words: str) -> None:
    world.rest.clock_skew_seconds = skew
    assert f" s {words} Twilio" in await world.only_fault("clock")


def test_a_little_skew_is_fine_and_no_date_is_no_fault() -> None:
    now = datetime.now(UTC)
    assert check_clock(now - timedelta(seconds=59), now).status is Status.OK
    assert check_clock(now + timedelta(seconds=61), now).status is Status.FAILED
    assert check_clock(None, now).status is Status.SKIPPED


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ({"phone_number": "+15550109999"}, "not a number of this account"),
        ({"voice_url": "https://old.example/voice"}, "points to https://old.example/voice: set"),
        ({"voice_url": VOICE + "/"}, f"to {VOICE}"),
        ({"voice_url": ""}, "has no webhook"),
        ({"voice_application_sid": "AP" + "3" * 32}, "the TwiML app AP333"),
        ({"trunk_sid": "TK" + "3" * 32}, "the SIP trunk TK333"),
        ({"capabilities": {"voice": False}}, "cannot take voice calls"),
    ],
)
async def test_a_number_that_does_not_lead_here(world: World, fault: dict[str, Any], words: str) -> None:
    world.rest.numbers[world.number] |= fault
    assert words in await world.only_fault("number")


async def test_a_number_may_lead_here_in_another_spelling_and_with_a_query(world: World) -> None:
    world.rest.numbers[world.number]["voice_url"] = VOICE.replace("agent", "AGENT") + "?tenant=7"
    assert (await world.report())["number"].status is Status.OK


# --- the app ---


@pytest.mark.parametrize("fault", [{"public_url": "https://old.example"}, {"twilio_auth_token": "another-auth-token"}])
async def test_an_app_that_refuses_twilio(world: World, fault: dict[str, str]) -> None:
    world.app |= fault
    assert "the same PUBLIC_URL and TWILIO_AUTH_TOKEN" in await world.only_fault("webhook")


async def test_an_app_that_denies_the_doctor_s_caller(world: World) -> None:
    world.app |= {"allow_callers": "+4930*"}
    checks = await world.report()
    assert checks["webhook"].status is Status.OK
    assert checks["media socket"].status is Status.SKIPPED
    assert "ALLOW_CALLERS or DENY_CALLERS rejects the doctor's caller" in checks["media socket"].text


async def test_an_app_that_transcribes_calls_of_people(world: World) -> None:
    endpoint = Endpoint.openai(KEY)
    settings = world.made(realtime_api_key=KEY, endpoint_in_code=True)
    world.served = PhoneApp(Transcriber(dial="+15550100003"), settings=settings, endpoints=[endpoint])
    checks = await world.report()
    assert {checks["webhook"].status, checks["media socket"].status} == {Status.OK}


async def test_no_app_there(world: World) -> None:
    world.served = Starlette()
    assert "there is no phoneagent at https://agent.example/base/twilio/voice" in await world.only_fault("webhook")


async def test_nothing_there(world: World) -> None:
    async with Model(api_key=KEY) as model:
        settings = world.made(realtime_url=model.url, realtime_api_key=KEY)
        checks = {check.name: check async for check in examine(settings, local="http://127.0.0.1:1")}
    assert "nothing answers at" in checks["webhook"].text
    assert checks["media socket"].status is Status.SKIPPED


async def test_a_public_address_that_cannot_be_reached_says_why(world: World) -> None:
    no_tls = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0)
    async with no_tls, Model(api_key=KEY) as model:
        settings = world.made(realtime_url=model.url, realtime_api_key=KEY)
        local = f"https://127.0.0.1:{no_tls.sockets[0].getsockname()[1]}"
        checks = {check.name: check async for check in examine(settings, local=local)}
    assert checks["webhook"].text.startswith("https://agent.example/base/twilio/voice cannot be reached: 127.0.0.1:")
    assert "connection" in checks["webhook"].text or "TLS" in checks["webhook"].text


def page(content: Any, status: int = 200, kind: str = "text/xml") -> Any:
    async def answer(request: Request) -> Response:
        return PlainTextResponse(content, status, media_type=kind)

    return Starlette(routes=[Route("/twilio/voice", answer, methods=["POST"])])


@pytest.mark.parametrize(
    ("app", "words"),
    [
        (page("oops", 500), "HTTP 500: see the app's log"),
        (page("<html><body>Hello", kind="text/html"), "is not phoneagent's"),
        (page("{}", kind="application/json"), "is not phoneagent's"),
        (page('<Response><Reject reason="busy"/></Response>'), "takes no calls now"),
    ],
)
async def test_something_else_answers(world: World, app: Any, words: str) -> None:
    world.served = app
    assert words in await world.only_fault("webhook")


def careless(*, webhook: bool, socket: bool) -> Starlette:
    """An app that looks at no signature, at the webhook or at the socket."""

    async def voice(request: Request) -> Response:
        if not webhook and request.headers["x-twilio-signature"] not in signed:
            signed.append(request.headers["x-twilio-signature"])
            if len(signed) > 1:
                return Response(status_code=403)
        return Response(connect_stream("wss://agent.example/base/media/token", {}), media_type="text/xml")

    async def media(websocket: WebSocket) -> None:
        signed.append(websocket.headers["x-twilio-signature"])
        if not socket:
            await websocket.close()
            return
        await websocket.accept()
        await websocket.receive()

    signed: list[str] = []
    return Starlette(routes=[Route("/twilio/voice", voice, methods=["POST"]), WebSocketRoute("/media/token", media)])


async def test_an_app_that_answers_unsigned_requests(world: World) -> None:
    world.served = careless(webhook=True, socket=True)
    checks = await world.report()
    assert "answers unsigned requests" in checks["webhook"].text
    assert "opens for unsigned requests" in checks["media socket"].text
    assert checks["webhook"].status is checks["media socket"].status is Status.FAILED


async def test_a_proxy_that_does_not_let_websockets_through(world: World) -> None:
    world.served = careless(webhook=False, socket=False)
    assert "does not open (HTTP 403): let proxy and tunnel forward WebSockets" in await world.only_fault("media socket")


# --- an insecure app ---


async def insecure(world: World, app: Any = None, **app_settings: Any) -> dict[str, Check]:
    """Examine an app on this machine without an account; the checks by name."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    async with Model(api_key=KEY) as model:
        given = {"realtime_url": model.url, "realtime_api_key": KEY, "database_url": f"sqlite:///{world.database}"}
        ours = Settings(insecure=True, **given)
        theirs = Settings(**{"insecure": True, **given, **app_settings})
        if theirs.insecure:  # as `serve --insecure` does
            theirs = theirs.model_copy(update={"public_url": address})
        served = app or PhoneApp(Agent(instructions="Be brief."), settings=theirs)
        async with serving(served, port=port):
            return {check.name: check async for check in examine(ours, local=address)}


async def test_an_insecure_app_is_checked_as_far_as_it_goes(world: World) -> None:
    checks = await insecure(world)
    assert {name: check.status for name, check in checks.items()} == {
        "settings": Status.NOTE,
        "Twilio": Status.SKIPPED,
        "webhook": Status.OK,
        "media socket": Status.OK,
        "model": Status.OK,
        "database": Status.OK,
    }
    assert "set TWILIO_ACCOUNT_SID, TWILIO_AUTH_TOKEN and PUBLIC_URL" in checks["Twilio"].text


async def test_an_app_that_wants_signatures_is_no_insecure_one(world: World) -> None:
    account = {"twilio_account_sid": ACCOUNT, "twilio_auth_token": TOKEN, "public_url": PUBLIC}
    checks = await insecure(world, insecure=False, **account)
    assert "takes signed calls only: run the doctor with the app's own settings" in checks["webhook"].text
    assert (checks["webhook"].status, checks["media socket"].status) == (Status.FAILED, Status.SKIPPED)


@pytest.mark.parametrize(
    ("served", "words"),
    [
        (page('<Response><Reject reason="busy"/></Response>'), "takes no calls now"),
        (page("oops", 500), "HTTP 500: see the app's log"),
    ],
)
async def test_an_insecure_app_that_takes_no_calls(world: World, served: Any, words: str) -> None:
    assert words in (await insecure(world, served))["webhook"].text


async def test_an_insecure_app_without_a_media_socket(world: World) -> None:
    stream = connect_stream("ws://127.0.0.1:1/media/token", {})
    socket_ = (await insecure(world, page(stream)))["media socket"]
    assert (socket_.status, "does not open" in socket_.text) == (Status.FAILED, True)


async def test_an_insecure_app_is_found_by_its_address_only(world: World) -> None:
    async with Model() as model:
        ours = Settings(insecure=True, realtime_url=model.url, database_url=f"sqlite:///{world.database}")
        checks = {check.name: check async for check in examine(ours)}
    assert (checks["webhook"].status, "--local" in checks["webhook"].text) == (Status.SKIPPED, True)


# --- the model and the records ---


async def test_a_wrong_model_key(world: World) -> None:
    world.settings["realtime_api_key"] = "sk-another"
    assert "HTTP 401 invalid_api_key: check REALTIME_API_KEY" in await world.only_fault("model")


async def test_a_model_that_does_not_exist(world: World) -> None:
    world.model["faults"] = Faults(refuse_models={"gpt-realtime-2.1"})
    text = await world.only_fault("model")
    assert "`gpt-realtime-2.1` does not exist" in text
    assert text.endswith("check OPENAI_MODEL")


async def test_a_model_out_of_reach(world: World) -> None:
    world.settings["realtime_url"] = "ws://127.0.0.1:1"
    assert "no connection to the model at 127.0.0.1" in await world.only_fault("model")


async def test_a_model_that_is_about_to_be_switched_off(world: World) -> None:
    day = datetime.now(UTC).date() + timedelta(days=30)
    world.model["faults"] = Faults(shutdown_date=day.isoformat())
    assert f"is switched off on {day}" in await world.only_fault("model's end")


@pytest.mark.parametrize(
    ("days", "status"), [(91, Status.OK), (90, Status.FAILED), (0, Status.FAILED), (-9, Status.FAILED)]
)
def test_days_until_a_model_ends(days: int, status: Status) -> None:
    today = date(2027, 1, 1)
    check = check_shutdown("m", today + timedelta(days=days), today)
    assert check.status is status
    assert ("was switched off" in check.text) == (days <= 0)


async def test_a_database_that_is_none(world: World) -> None:
    world.database.write_bytes(b"this is not a database" * 100)
    assert str(world.database) in await world.only_fault("database")


async def test_a_database_without_tables(world: World) -> None:
    world.database.touch()
    assert "phoneagent migrate" in await world.only_fault("database")


# --- settings ---


def test_missing_settings_are_a_line_each() -> None:
    checks = settings_missing(ConfigurationError(["A is missing: set it", "B is malformed: fix it"]))
    assert [check.text for check in checks if check.status is Status.FAILED] == [
        "A is missing: set it",
        "B is malformed: fix it",
    ]
    assert all(check.status is Status.SKIPPED for check in checks[2:])


async def test_a_database_whose_folder_is_missing(world: World) -> None:
    world.database = world.database.parent / "nowhere" / "phoneagent.db"
    assert "its folder does not exist: create it" in await world.only_fault("database")
