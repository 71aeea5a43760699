"""The OpenAPI document: it is valid, it has every route of the API, and what is answered fits it."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from openapi_spec_validator import validate
from starlette.applications import Starlette
from starlette.routing import Mount, Route

from phoneagent import Call
from phoneagent.console import openapi
from phoneagent.console.operations import Operation
from phoneagent.store import Store
from tests.asgi import request
from tests.console.test_api import ENDED, STARTED, TOKEN, get, with_token

pytestmark = pytest.mark.anyio


async def described() -> Any:
    return json.loads((await get(with_token(), "/openapi.json")).text)


async def test_it_is_valid_and_needs_the_token() -> None:
    validate(await described())
    assert (await get(with_token(), "/openapi.json", headers={})).status == 401


async def test_a_mounted_app_names_the_path_it_is_mounted_at() -> None:
    outer = Starlette(routes=[Mount("/agent", app=with_token())])
    assert json.loads((await get(outer, "/agent/openapi.json")).text)["servers"] == [{"url": "/agent"}]
    assert (await described())["servers"] == [{"url": "/"}]


async def test_every_status_of_a_success_is_in_it() -> None:
    paths = (await described())["paths"]
    assert {"200", "204", "503"} <= paths["/calls/{sid}/events"]["get"]["responses"].keys()
    assert {"200", "206", "416"} <= paths["/calls/{sid}/audio.wav"]["get"]["responses"].keys()


async def test_every_route_of_the_api_is_in_it() -> None:
    console = with_token()._parts.console
    assert console is not None
    paths = [each.path for each in console._router.routes if isinstance(each, Route)]
    api = [path for path in paths if not path.startswith("/console") and "{any:path}" not in path]
    document = await described()
    assert sorted(document["paths"]) == sorted(api)
    assert {"/calls/{sid}/say", "/calls/{sid}/transfer", "/calls/outbound/{id}", "/events"} <= set(api)


async def test_each_operation_has_a_name_of_its_own_and_only_the_methods_that_are_answered() -> None:
    app, document = with_token(), await described()
    names = []
    for path, item in document["paths"].items():
        methods = [each.upper() for each in item if each != "parameters"]
        names += [item[each.lower()]["operationId"] for each in methods]
        refused = await request(app, "DELETE", path.replace("{sid}", "CA1"), headers=TOKEN)
        assert sorted(refused.headers["allow"].split(", ")) == sorted(methods)
    assert len(set(names)) == len(names)


def fits(document: Any, name: str, found: Any) -> None:
    """Check an answer against a schema of the document, and that it has no field that the schema lacks."""
    strict = json.loads(json.dumps(document["components"]["schemas"]))
    for schema in strict.values():
        if "properties" in schema:
            schema["additionalProperties"] = False
    Draft202012Validator({"$ref": f"#/components/schemas/{name}", "components": {"schemas": strict}}).validate(found)


async def test_what_is_answered_fits_it(tmp_path: Path) -> None:
    document = await described()
    async with Store.from_url(f"sqlite:///{tmp_path / 'calls.db'}") as store:
        app = with_token(store=store)
        app.calls["CA1"] = Call(
            sid="CA1", caller="+15550100001", called=None, direction="inbound", started_at=datetime.now(UTC)
        )
        app._parts.emit(STARTED, "MZ1")
        await store.flush()
        live = json.loads((await get(app, "/calls")).text)
        fits(document, "CallsPage", live)
        fits(document, "OneCall", json.loads((await get(app, "/calls/CA1")).text))
        del app.calls["CA1"]
        app._parts.emit(ENDED, "MZ1")
        await store.flush()
        past = json.loads((await get(app, "/calls/CA1")).text)
        assert past["record"]["turns"] == []
        fits(document, "OneCall", past)
        assert store.events is not None
        await store.events.flush()
        stream = (await get(app, "/calls/CA1/events")).text
        told = [json.loads(line.removeprefix("data: ")) for line in stream.splitlines() if line.startswith("data: ")]
        assert [each["type"] for each in told] == ["call_started", "call_ended"]
        fits(document, "CallStarted", told[0])
        fits(document, "CallEnded", told[1])
        fits(document, "ProblemDetails", json.loads((await get(app, "/calls/CA9")).text))


async def test_each_body_has_an_example_that_is_taken() -> None:
    document, seen = await described(), 0
    for path, item in document["paths"].items():
        if "requestBody" in item.get("post", {}):
            content = item["post"]["requestBody"]["content"]["application/json"]
            Draft202012Validator({**content["schema"], "components": document["components"]}).validate(
                content["example"]
            )
            answer = await request(
                with_token(),
                "POST",
                path.replace("{sid}", "CA1"),
                body=json.dumps(content["example"]).encode(),
                headers={**TOKEN, "Content-Type": "application/json"},
            )
            assert answer.status == (501 if path in ("/calls", "/campaigns") else 404), answer.text  # it was understood
            seen += 1
    assert seen == 11


async def test_an_operation_without_a_result_is_a_stream_of_events() -> None:
    async def answer(given: Any) -> Any: ...

    document = openapi.document({"/news": {"GET": Operation(answer, "News")}})
    assert list(document["paths"]["/news"]["get"]["responses"]["200"]["content"]) == ["text/event-stream"]
