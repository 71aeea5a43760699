from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from dataclasses import replace

import pytest

from benchmarks import plot, report
from benchmarks.flow import Latency, summary
from benchmarks.results import BargeIns, Generator, Result, Side, Window

QUIET = Generator(cpu_share=0.3, late_p99_ms=1.2, late_max_ms=3.0)


def window(calls: int, p99: float, *, lost: int = 0, cost: float = 5.0) -> Window:
    side = Side(Latency(count=1000, p50=p99 / 10, p99=p99, max=2 * p99, late=5), lost)
    return Window(calls, 15.0, cost, side, side, 0, QUIET, others=0.0)


def result(name: str, main: Window, *windows: Window) -> Result:
    barge_ins = BargeIns(40, Latency(120, 0.5, 2.0, 3.0), unanswered=0, silent=1)
    return Result(name, 1, kb_per_call=100.0, barge_ins=barge_ins, main=main, windows=[*windows, main])


def test_the_first_bridge_is_compared_with_the_last(capsys: pytest.CaptureFixture[str]) -> None:
    ours = result("phoneagent", window(100, 4.0, cost=3.0))
    ours.most = 300
    theirs = result("tutorial", window(100, 18.0, lost=7, cost=10.0))
    theirs.faults = {"the bridge closed the media socket": 2}
    theirs.most = 100
    report.show([ours, theirs])
    out, err = capsys.readouterr()
    lines = {
        line.split("│")[1].strip(): [cell.strip() for cell in line.split("│")[2:5]] for line in out.splitlines()[4:-1]
    }
    assert lines["CPU-ms per call-second"] == ["3.00", "10.00", "0.30"]
    assert lines["most calls, p99 < 20 ms, none lost"] == ["300", "100", "3.00"]
    assert lines["lost to the model"] == ["0", "7", ""]
    assert lines["late to the caller (> 20 ms)"] == ["0.50%", "0.50%", ""]
    assert lines["webhook to greeting p50, ms"] == ["", "", ""]
    assert "tutorial: 2 calls: the bridge closed the media socket" in err


def test_json_has_null_for_what_was_not_measured() -> None:
    empty = result("phoneagent", window(10, 1.0))
    empty.accept = summary([])
    (found,) = json.loads(report.as_json([empty]))
    assert found["accept"] == {"count": 0, "p50": None, "p99": None, "max": None, "late": 0}
    assert found["main"]["to_model"]["latency"]["p99"] == 1.0
    assert found["greeting"] is None


def test_a_late_generator_is_named() -> None:
    late = replace(window(10, 30.0), generator=replace(QUIET, late_p99_ms=9.0), others=0.4)
    assert "TOO LATE" in report.line_of(late)
    assert "40% of the bridge's cores" in report.line_of(late)
    assert "TOO LATE" not in report.line_of(window(10, 30.0))


def test_the_plot_has_a_point_for_each_number_of_calls() -> None:
    ours = result("phone<agent>", window(100, 4.0), window(10, 1.0), window(50, 2.0), window(50, 3.0))
    theirs = result("tutorial", window(100, 180.0), window(10, 1.5))
    tree = ET.fromstring(plot.draw([ours, theirs], 20.0))
    names = [element.tag.rpartition("}")[2] for element in tree.iter()]
    assert names.count("circle") == 5
    assert names.count("polyline") == 4
    heights = [float(element.get("cy", "")) for element in tree.iter() if element.tag.endswith("circle")]
    assert heights[0] > heights[1] > heights[2]  # a higher latency is higher up
    assert any("phone<agent>" in (element.text or "") for element in tree.iter())
    assert all(plot.TOP <= height <= plot.HEIGHT - plot.BOTTOM for height in heights)


def test_a_plot_of_nothing_is_a_plot() -> None:
    assert ET.fromstring(plot.draw([Result("phoneagent", 1)], 20.0)).tag.endswith("svg")
