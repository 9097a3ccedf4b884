"""scripts/bench_attention.py: documents as asked, ways that agree, and the documented rows."""

from __future__ import annotations

import json
import sys

import bench_attention
import pytest
import torch


def test_documents_are_as_many_as_asked():
    span = bench_attention.spans(3, 50, 7)
    assert span.shape == (3, 50)
    assert all(row.unique().tolist() == list(range(7)) for row in span)
    assert bench_attention.spans(2, 9, 1).eq(0).all()


def test_ways_without_a_gpu_agree():
    heads = [torch.randn(2, 3, 20, 8) for _ in "qkv"]
    ways = bench_attention.ways_of(bench_attention.spans(2, 20, 1), heads)
    assert set(ways) == {"pairs", "all rows"}
    torch.testing.assert_close(*(way()[0] for way in ways.values()))
    assert set(bench_attention.ways_of(bench_attention.spans(2, 20, 2), heads)) == {"pairs"}


def test_it_prints_the_documented_rows(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    words = ["--sequences", "1", "--length", "64", "--documents", "1", "3", "--rounds", "1"]
    monkeypatch.setattr(sys, "argv", ["bench_attention.py", *words])
    bench_attention.main()
    rows = json.loads(capsys.readouterr().out)["rows"]
    found = [(row["way"], row["head"], row["documents"]) for row in rows]
    ways = [("pairs", 1), ("all rows", 1), ("pairs", 3)]
    assert found == [(way, head, documents) for head in (64, 128) for way, documents in ways]
    assert all(row["forward_ms"] > 0 for row in rows)
