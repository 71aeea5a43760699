"""The tool that transfers a call: the model chooses a name, and never a number."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from phoneagent import Call, DefinitionError, ToolError, transfer
from phoneagent.bridge.steps import Transfer

pytestmark = pytest.mark.anyio

TO = {"billing": "+12025550107", "front desk": "sip:desk@pbx.example"}


class Control:
    """What a call is asked to do."""

    def __init__(self, problem: str | None = None) -> None:
        self.begun: list[tuple[Transfer, bool]] = []
        self._problem = problem

    def transfer(self, step: Transfer, *, warm: bool) -> None:
        if self._problem:
            raise ToolError(self._problem)
        self.begun.append((step, warm))


def live(control: Control | None) -> Call:
    call = Call(sid="CA1", caller=None, called=None, direction="inbound", started_at=datetime.now(UTC))
    call.attach(control)  # type: ignore[arg-type]
    return call


def test_the_model_sees_names_and_no_number() -> None:
    definition = transfer(to=TO, warm=True).definition()
    assert definition["parameters"]["properties"]["to"]["enum"] == ["billing", "front desk"]
    assert definition["parameters"]["required"] == ["to"]
    assert "+1202" not in json.dumps(definition)
    assert "pbx" not in json.dumps(definition)
    assert transfer(to=TO, name="send_on", describe="Send on.").definition()["description"] == "Send on."


@pytest.mark.parametrize("warm", [False, True])
async def test_a_name_of_the_list_is_transferred_to(warm: bool) -> None:
    control = Control()
    made = transfer(to=TO, warm=warm, timeout=30, caller_id="called")
    output = await made.run(live(control), '{"to": "billing"}')
    assert control.begun == [(Transfer(to=TO["billing"], name="billing", timeout=30, caller_id="called"), warm)]
    assert "billing" in output
    assert "+1202" not in output


@pytest.mark.parametrize(
    "arguments", ['{"to": "+19005550199"}', '{"to": "Billing"}', "{}", '{"to": ["billing"]}', '{"to": null}', "[]"]
)
async def test_any_other_destination_is_refused(arguments: str) -> None:
    control = Control()
    output = json.loads(await transfer(to=TO).run(live(control), arguments))
    assert control.begun == []
    assert "error" in output


async def test_why_a_call_cannot_be_transferred_reaches_the_model() -> None:
    assert "it is over" in await transfer(to=TO).run(live(None), '{"to": "billing"}')
    assert "no database" in await transfer(to=TO).run(live(Control("no database")), '{"to": "billing"}')


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"to": {}}, "needs to="),
        ({"to": ["+12025550107"]}, "needs to="),
        ({"to": {str(number): "+12025550107" for number in range(101)}}, "1 to 100"),
        ({"to": {"help": "911"}}, "emergency"),
        ({"to": {"hotline": "+19005550199"}}, "premium"),
        ({"to": TO, "warm": "yes"}, "warm='yes'"),
        ({"to": TO, "name": "put through"}, "cannot be used"),
        ({"to": TO, "timeout": 0}, "timeout=0"),
    ],
)
def test_what_is_refused_where_it_is_written(options: dict[str, Any], words: str) -> None:
    with pytest.raises(DefinitionError, match=words):
        transfer(**options)


async def test_code_gives_the_number() -> None:
    control = Control()
    live(control).transfer("client:anna", warm=True)
    assert control.begun == [(Transfer(to="client:anna", name="the other party"), True)]
    with pytest.raises(DefinitionError, match="emergency"):
        live(control).transfer("112")
    with pytest.raises(ToolError, match="it is over"):
        live(None).transfer("client:anna")
