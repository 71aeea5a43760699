"""TwiML that Twilio can read."""

from __future__ import annotations

import xml.etree.ElementTree as ET

from phoneagent.twilio.twiml import connect_stream


def test_twiml_connects_the_stream_and_escapes() -> None:
    twiml = connect_stream(
        "wss://a.example/m/t", {"caller": '<"&>', "called": "", "direction": "inbound", "x": "y" * 600}
    )
    root = ET.fromstring(twiml)
    stream = root.find("./Connect/Stream")
    assert stream is not None
    assert stream.attrib == {"url": "wss://a.example/m/t"}
    parameters = {each.attrib["name"]: each.attrib["value"] for each in stream}
    assert parameters == {"caller": '<"&>', "direction": "inbound"}
    assert [child.tag for child in root] == ["Connect"]
