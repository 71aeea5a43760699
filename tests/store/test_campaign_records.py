"""What is shown of campaigns, and what of them is in no log."""

from __future__ import annotations

import json
from datetime import UTC, datetime

from phoneagent.store.campaign_records import Campaign, CampaignCall, NewCall

NOW = datetime(2026, 11, 30, 12, tzinfo=UTC)
NUMBER = "+12025550100"


def test_a_campaign_counts_its_numbers() -> None:
    campaign = Campaign(
        id="1",
        name="visits",
        state="running",
        plan={"rules": {"from": NUMBER}, "dial": {"from": NUMBER}},
        created_at=NOW,
        ended_at=None,
        numbers={"waiting": 2, "skipped": 1},
        results={"busy": 1},
    )
    assert (campaign.total, campaign.over) == (3, False)
    shown = campaign.as_dict()
    assert (shown["numbers"], shown["results"], shown["ended_at"]) == ({"waiting": 2, "skipped": 1}, {"busy": 1}, None)
    json.dumps(shown)
    assert NUMBER not in repr(campaign)


def test_a_line_of_the_report_has_no_context_and_its_repr_no_number() -> None:
    call = CampaignCall(
        position=2,
        to=NUMBER,
        context={"name": "Anna"},
        state="waiting",
        attempts=1,
        due_at=NOW,
        call_sid=None,
        result="busy",
        reason="busy",
        ended_at=None,
    )
    assert call.as_dict()["due_at"] == "2026-11-30T12:00:00+00:00"
    assert "Anna" not in json.dumps(call.as_dict())
    for each in (call, NewCall(position=2, to=NUMBER, context={"name": "Anna"})):
        assert NUMBER not in repr(each)
        assert "Anna" not in repr(each)
