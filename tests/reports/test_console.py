"""What a person sees: a bar with losses, speed and time left on a terminal, plain lines elsewhere."""

from __future__ import annotations

import io

from rich.console import Console

from momafuse.reports.console import ConsoleReport
from momafuse.reports.metrics import Row


def row(step: int) -> Row:
    return {
        "step": step,
        "train/loss": 6.0,
        "train/loss_text": 5.25,
        "train/loss_image": 6.75,
        "perf/tokens_per_second": 12345.6,
    }


def test_plain_lines_where_the_output_is_no_terminal() -> None:
    out = io.StringIO()
    report = ConsoleReport(Console(file=out, width=20), total_steps=7, start_step=0, log_every=3)
    report.message("a path longer than the width, [with brackets]")
    for step in range(1, 8):
        report.step(row(step))
    report.evaluation({"step": 7, "eval/loss_text": 5.0, "eval/loss_image": 6.5, "eval/routing": "training"})
    report.close()
    assert out.getvalue().splitlines() == [
        "a path longer than the width, [with brackets]",
        "step 3/7  text 5.250  image 6.750  12,346 tokens/s",
        "step 6/7  text 5.250  image 6.750  12,346 tokens/s",
        "step 7/7  text 5.250  image 6.750  12,346 tokens/s",
        "step 7/7  held out: text 5.000  image 6.500",
    ]


def test_a_live_bar_on_a_terminal() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, record=True, width=120, _environ={"TERM": "xterm"})
    report = ConsoleReport(console, total_steps=8, start_step=2, log_every=1)
    report.step(row(3))
    report.step(row(4))
    report.message("a message [above] the bar")
    report.close()
    text = console.export_text()
    assert "a message [above] the bar" in text
    last = text.rstrip().splitlines()[-1]
    assert "4/8" in last
    assert "text 5.250  image 6.750" in last
    assert "12,346 tokens/s" in last
    assert last.endswith("left")
    assert not [line for line in text.splitlines() if line.startswith("step ")]


def test_a_dumb_terminal_gets_plain_lines() -> None:
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=120, _environ={"TERM": "dumb"})
    report = ConsoleReport(console, total_steps=2, start_step=0, log_every=1)
    report.step(row(1))
    report.close()
    assert out.getvalue() == "step 1/2  text 5.250  image 6.750  12,346 tokens/s\n"
