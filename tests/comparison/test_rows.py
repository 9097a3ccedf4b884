"""Rows, seeds, baselines, marks and refusals, on runs whose curves are known."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from momafuse.comparison.rows import Comparison, Row, compare
from momafuse.comparison.tables import markdown, said
from momafuse.errors import UserError
from tests.comparison.runs import FLOPS, TOKENS, falling, make_auxiliary, make_run

DENSE = "+experiment=dense"
MOMA = "+experiment=moma_4t4i"
MOT = "+experiment=mot"


def compared(*folders: Path, baseline: str = "dense", incomplete: bool = False) -> Comparison:
    return compare([str(folder) for folder in folders], baseline, incomplete=incomplete)


def row(c: Comparison, label: str) -> Row:
    return next(one for one in c.rows if one.label == label)


def eta(c: Comparison, label: str, measure: str, part: str, axis: str = "flops") -> float:
    factors = row(c, label).cells[measure][part].factors[axis]
    assert factors.state == "reached"
    return factors.found.mean


def test_known_factors_overall_and_by_modality(tmp_path):
    dense = make_run(tmp_path, "dense", DENSE)
    twice = make_run(tmp_path, "mot", MOT, losses=falling(2.0), speed=800.0)
    mixed = make_run(tmp_path, "moe", "+experiment=moe_1t1i", losses=falling(text=1.6, image=4.0))
    c = compared(dense, twice, mixed)
    assert (c.parts, [r.label for r in c.rows]) == (("all", "text", "image"), ["dense", "mot", "moe"])
    for part in c.parts:
        assert eta(c, "mot", "training", part) == pytest.approx(2.0, rel=2e-3)
        assert eta(c, "mot", "held_out", part) == pytest.approx(2.0, abs=1e-9)
        assert row(c, "mot").cells["held_out"][part].factors["tokens"].shares.mean == pytest.approx(0.5)
        assert eta(c, "mot", "held_out", part, "seconds") == pytest.approx(2.0 * 0.8)
        assert eta(c, "dense", "held_out", part) == pytest.approx(1.0)
    assert eta(c, "moe", "training", "text") == pytest.approx(1.6, rel=3e-3)
    assert eta(c, "moe", "training", "image") == pytest.approx(4.0, rel=5e-3)
    limits = row(c, "moe").cells["held_out"]["text"].factors["flops"].limits
    assert limits == (pytest.approx(40 / 30), pytest.approx(2.0))  # 25 steps lie between the evaluations at 20 and 30
    assert limits[0] < eta(c, "moe", "held_out", "text") < limits[1]
    assert eta(c, "moe", "held_out", "text") == pytest.approx(1.6, rel=0.01)


def test_a_loss_that_is_not_reached_and_one_that_is_there_from_the_start(tmp_path):
    dense = make_run(tmp_path, "dense", DENSE)
    worse = make_run(tmp_path, "mot", MOT, losses=falling(up=0.25))
    better = make_run(tmp_path, "moe", "+experiment=moe_1t1i", losses=falling(up=-2.0))
    c = compared(dense, worse, better)
    cell = row(c, "mot").cells["held_out"]["all"]
    assert said(cell.factors["flops"]) == "not reached (+0.250)"
    assert cell.difference == pytest.approx(0.25)
    assert said(row(c, "moe").cells["held_out"]["all"].factors["flops"], limits=True) == "≥ 4.00"
    assert said(row(c, "moe").cells["held_out"]["all"].factors["tokens"], share=True) == "≤ 0.25"
    text = markdown(c)
    assert "| `mot` | 1 | not reached (+0.250) |" in text
    other = compared(dense, worse, better, baseline="mot")  # a baseline that is worse than all
    assert all(r.cells["training"]["all"].factors["flops"].state in ("reached", "bound") for r in other.rows)


def test_a_stretch_of_easy_data_is_told(tmp_path):
    dense = make_run(tmp_path, "dense", DENSE)

    def dips(flops: float) -> dict[str, float]:
        easy = 1.0 if flops == 10 * TOKENS * FLOPS else 0.0
        return {part: loss - easy for part, loss in falling(1.6)(flops).items()}

    c = compared(dense, make_run(tmp_path, "mot", MOT, losses=falling(1.6), held_out=dips))
    factors = row(c, "mot").cells["held_out"]["all"].factors["flops"]
    assert said(factors, limits=True) == "≥ 4.00 (for good 1.60)"
    assert "for good" not in said(row(c, "mot").cells["training"]["all"].factors["flops"])
    ends = compared(
        dense,
        make_run(
            tmp_path,
            "moe",
            "+experiment=moe_1t1i",
            losses=falling(up=0.1),
            held_out=lambda f: {part: loss + (0.1 if f > 30 * TOKENS * FLOPS else -0.3) for part, loss in falling()(f).items()},
        ),
    )
    assert said(row(ends, "moe").cells["held_out"]["all"].factors["flops"]).endswith("(not for good)")


def test_a_baseline_without_causal_losses(tmp_path):
    moma = make_run(tmp_path, "moma", MOMA, routing="training")
    text = markdown(compared(moma, make_run(tmp_path, "mot", MOT), baseline="moma"))
    assert text.count("| `mot` | 1 | 1.00") == 2  # training and held out; nothing causal to reach
    assert "- moma: no causal loss of every seed" in text


def test_seeds_are_one_row_held_against_the_mean_of_the_baselines(tmp_path):
    words = [f"run.seed={seed}" for seed in range(3)]
    dense = [make_run(tmp_path, f"dense-{s}", DENSE, words[s], losses=falling(up=u)) for s, u in ((0, 0.1), (1, -0.1))]
    mot = [make_run(tmp_path, f"mot-{s}", MOT, words[s], losses=falling(k)) for s, k in ((2, 2.0), (0, 2.0), (1, 4.0))]
    c = compared(*mot, *dense, baseline="dense")
    assert [r.label for r in c.rows] == ["dense", "mot"]
    assert [run.name for run in row(c, "mot").runs] == ["mot-0", "mot-1", "mot-2"]
    found = row(c, "mot").cells["held_out"]["all"].factors["flops"]
    assert [f.value for f in found.each] == pytest.approx([2.0, 4.0, 2.0])
    assert (found.found.mean, found.found.std, found.found.n) == (pytest.approx(8 / 3), pytest.approx((4 / 3) ** 0.5), 3)
    own = row(c, "dense").cells["held_out"]["all"]
    assert own.final.std == pytest.approx(0.02**0.5)
    assert "in 1 of 2, else not reached (+0.100)" in said(own.factors["flops"])
    with pytest.raises(UserError, match="again and dense-0 are the same run twice"):
        compared(*dense, make_run(tmp_path, "again", DENSE, words[0]))


def test_other_learning_rate_is_another_row_and_a_mark(tmp_path):
    dense = make_run(tmp_path, "dense", DENSE)
    mot = [
        make_run(tmp_path, "mot", MOT),
        make_run(tmp_path, "mot-b", MOT, "optim.lr=0.1", "run.seed=1", "trainer.global_batch=8"),
    ]
    c = compared(dense, *mot)
    assert [r.label for r in c.rows] == ["dense", "mot", "mot-b"]
    assert row(c, "mot").marks == []
    assert (
        "differs in optim.lr=0.1, trainer.global_batch=8; the baseline optim.lr=0.002, trainer.global_batch=4"
        in row(c, "mot-b").marks
    )


def test_what_is_marked(tmp_path):
    dense = make_run(tmp_path, "dense", DENSE)
    longer = make_run(tmp_path, "longer", MOT, steps=80)
    deeper = make_run(tmp_path, "deeper", MOT, "model.n_layers=4", flops=2 * FLOPS)
    other = make_run(tmp_path, "bf16", MOT, state={"dtype": "bfloat16", "layout": {"ranks": 2}})
    seed = {"tokens": 10 * TOKENS, "flops": 10 * TOKENS * FLOPS}
    made = make_run(tmp_path, "made", MOMA, f"upcycle={dense}", steps=30, before=seed, routing="training")
    (made / "revision.txt").write_text("0.1.0 def\n")
    c = compared(dense, longer, deeper, other, made)
    assert row(c, "longer").marks == ["other length: 80 steps, 81,920 tokens; the baseline 40, 40,960"]
    assert row(c, "deeper").marks == [
        "other size: model.n_layers=4; the baseline model.n_layers=2",
        "not FLOP-matched: 2.00 of the baseline's a token",
    ]
    assert row(c, "bf16").marks == ["seconds in bfloat16, not float32", "seconds of 2 ranks, not 1"]
    marks = row(c, "made").marks
    assert marks == ["upcycled: FLOPs and steps with the 25% of its seed, seconds without", "other revision of the code"]
    assert eta(c, "made", "held_out", "all") == pytest.approx(1.0)  # its seed's FLOPs are counted
    assert row(c, "made").cells["held_out"]["all"].points == 4  # one before the first step


def test_seconds_of_other_machines_are_marked(tmp_path: Path) -> None:
    gpu, cpu = {"machine": {"device": "NVIDIA H100"}}, {"machine": {"device": "EPYC, AVX2", "threads": 4}}
    base, same = make_run(tmp_path, "dense", DENSE, state=gpu), make_run(tmp_path, "same", MOT, state=gpu)
    other, unknown = make_run(tmp_path, "other", MOT, state=cpu), make_run(tmp_path, "unknown", MOT)
    assert row(compared(base, same), "same").marks == []
    assert row(compared(base, unknown), "unknown").marks == []
    assert row(compared(base, other), "other").marks == ["seconds on other machines: EPYC, AVX2, 4 threads; NVIDIA H100"]


def test_seeds_whose_seconds_say_nothing(tmp_path):
    dense = [make_run(tmp_path, f"dense-{s}", DENSE, f"run.seed={s}", speed=v) for s, v in ((0, 1000.0), (1, 500.0))]
    assert row(compared(*dense), "dense").marks == ["seconds of its seeds: 40.96 to 81.92; they measure no speed"]


def test_causal_losses_come_from_auxiliary_routers(tmp_path):
    dense = make_run(tmp_path, "dense", DENSE)
    moma = make_run(tmp_path, "moma", MOMA, losses=falling(2.0), routing="training")
    without = compared(dense, moma)
    assert row(without, "moma").cells["causal"] == {}
    assert any(n.startswith("moma: no causal loss of every seed; add its auxiliary routers") for n in without.notes)
    assert "`moma`†" in markdown(without)
    end = falling(1.5)(40 * TOKENS * FLOPS)
    last = make_auxiliary(tmp_path, moma, end)
    cell = row(compared(dense, moma, last), "moma").cells["causal"]["text"]
    assert cell.final.mean == end["_text"]
    assert (cell.factors["flops"].state, cell.factors["flops"].found.mean) == ("bound", 1.0)  # one point says no more
    first = make_auxiliary(tmp_path, moma, falling(1.5)(20 * TOKENS * FLOPS), step=20, suffix="-aux20")
    c = compared(dense, moma, last, first)
    factors = row(c, "moma").cells["causal"]["text"].factors["flops"]
    assert factors.found.mean == pytest.approx(1.5, rel=0.01)
    assert factors.limits == (pytest.approx(1.0), pytest.approx(2.0))
    assert "moma-aux: learnt with 5.0% of the FLOPs of moma, which are not counted" in c.notes
    assert "causal losses end at step 20 of 40" in " ".join(compared(dense, moma, first).notes)


def test_causal_losses_of_other_sequences_are_left_out_until_they_are_evaluated(tmp_path):
    dense = make_run(tmp_path, "dense", DENSE)
    moma = make_run(tmp_path, "moma", MOMA, routing="training")
    aux = make_auxiliary(tmp_path, moma, {"": 1.0, "_text": 1.0, "_image": 1.0}, **{"unigram/text": 6.0, "unigram/image": 8.0})
    c = compared(dense, moma, aux)
    assert row(c, "moma").cells["causal"] == {}
    assert "`python -m momafuse.evaluate run=ROOT/moma-aux routing=causal sequences=48` helps" in " ".join(c.notes)
    found = {part: {"loss": loss} for part, loss in (("all", 4.0), ("text", 3.0), ("image", 5.0))}
    for name, sequences, loss in (("step_00000008-both", 48, found), ("step_00000008-causal", 8, {})):
        (aux / "evaluation").mkdir(exist_ok=True)
        e = {"step": 8, "corpus": None, "sequences": sequences, "routing": {"causal": loss}}
        (aux / "evaluation" / f"{name}.json").write_text(json.dumps(e))
    assert row(compared(dense, moma, aux), "moma").cells["causal"]["image"].final.mean == 5.0


def test_held_out_losses_of_other_sequences_are_left_out(tmp_path):
    dense = make_run(tmp_path, "dense", DENSE)
    mot = make_run(tmp_path, "mot", MOT, unigram={"unigram/text": 6.5, "unigram/image": 8.6})
    found = row(compared(dense, mot), "mot")
    assert (found.cells["held_out"], found.marks) == ({}, ["other held-out sequences: those losses are left out"])
    assert found.cells["training"]["all"].factors["flops"].state == "reached"


REFUSED = {
    "objective": (["objective.weight.image=0.5"], {}, r"has another objective than dense \(objective.weight.image\)"),
    "answers": (["objective.answers_only=true"], {}, r"another objective than dense \(objective.answers_only\)"),
    "mixture": (["data.sources.starter_glosses.weight=2"], {}, r"another mixture of data than dense \(data.sources.starter_gl"),
    "tokenizer": (
        ["tokenizer.image=starter_vq_v1"],
        {},
        r"other tokenizers than dense \(text starter_bpe_v1, image starter_vq_v1",
    ),
    "corpus": ([], {"corpus": "another"}, "was trained on another corpus than dense"),
    "budget": (
        ["data.image_share=0.25"],
        {"tokens_of": {"text": 192 * 160, "image": 64 * 160}},
        r"\(text 192, image 64 tokens a sequence, not text 128, image 128\)",
    ),
}


@pytest.mark.parametrize("why", REFUSED)
def test_what_is_refused(tmp_path, why):
    words, state, message = REFUSED[why]
    dense = make_run(tmp_path, "dense", DENSE)
    other = make_run(tmp_path, "other", MOT, *words, state=state)
    with pytest.raises(UserError, match=f"^runs: other .*{message}.*; leave it out$"):
        compared(dense, other)


def test_places_of_data_may_differ(tmp_path):
    dense = make_run(tmp_path, "dense", DENSE)
    other = make_run(tmp_path, "mot", MOT, f"data.path={tmp_path}/moved")
    assert row(compared(dense, other), "mot").marks == []


def test_incomplete_runs_are_refused_or_marked(tmp_path):
    dense = make_run(tmp_path, "dense", DENSE)
    part = make_run(tmp_path, "mot", MOT, "trainer.max_steps=60", whole=False)
    with pytest.raises(UserError, match=r"^runs: mot stopped at step 40 of 60; .* write incomplete=true"):
        compared(dense, part)
    assert row(compared(dense, part, incomplete=True), "mot").marks == ["incomplete: 40 of 60 steps"]


def test_what_cannot_be_read(tmp_path):
    dense = make_run(tmp_path, "dense", DENSE)
    other = make_run(tmp_path, "mot", MOT)
    cases = {
        "no run there": lambda: compared(dense, tmp_path / "none"),
        "one of them is named twice": lambda: compared(dense, other, tmp_path / "mot" / ".." / "mot"),
        r"baseline=dnse: is none of runs; name one of dense, mot": lambda: compared(dense, other, baseline="dnse"),
    }
    for message, call in cases.items():
        with pytest.raises(UserError, match=message):
            call()
    elsewhere = make_run(tmp_path / "b", "mot", MOT)
    with pytest.raises(UserError, match="two of them are called mot"):
        compared(dense, other, elsewhere)
    aux = make_auxiliary(tmp_path, make_run(tmp_path, "moma", MOMA, routing="training"), {"": 1.0})
    with pytest.raises(UserError, match="moma-aux holds auxiliary routers of moma, which is not among runs; add it"):
        compared(dense, aux)
    (aux / "report.json").unlink()
    with pytest.raises(UserError, match="moma-aux is not at its end"):
        compared(dense, tmp_path / "moma", aux)
    (other / "metrics.jsonl").unlink()
    with pytest.raises(UserError, match=r"mot has no steps in metrics.jsonl.*; bring its metrics.jsonl back"):
        compared(dense, other)
    (dense / "checkpoints/step_00000040/complete.json").unlink()
    with pytest.raises(UserError, match=r"dense has no complete checkpoint, whose state.json"):
        compared(dense)


def test_auxiliary_routers_of_another_run_of_that_name(tmp_path):
    dense = make_run(tmp_path, "dense", DENSE)
    aux = make_auxiliary(tmp_path, make_run(tmp_path / "b", "moma", MOMA, "run.seed=5", routing="training"), {"": 1.0})
    moma = make_run(tmp_path, "moma", MOMA, routing="training")
    with pytest.raises(UserError, match=r"moma-aux learnt from a moma with another run\.seed"):
        compared(dense, moma, aux)


def test_sizes_are_held_against_the_dense_model_of_as_many_flops_and_have_a_law(tmp_path):
    runs = []
    for n, dim in enumerate((32, 64, 128)):
        words, flops = (f"model.dim={dim}",), FLOPS * 4**n
        runs.append(make_run(tmp_path, f"dense-{dim}", DENSE, *words, flops=flops))
        runs.append(make_run(tmp_path, f"mot-{dim}", MOT, *words, losses=falling(2.0 + n), flops=flops * 1.01))
    c = compared(*runs)
    assert [r.baseline for r in c.rows] == [f"dense-{d}" for d in (32, 64, 128, 32, 64, 128)]
    assert [eta(c, f"mot-{d}", "training", "all") for d in (32, 64, 128)] == pytest.approx([2, 3, 4], rel=0.01)
    assert row(c, "mot-64").marks == []
    law = next(w for w in c.laws if (w.labels[0], w.measure, w.part) == ("dense-32", "held_out", "text"))
    assert (law.law.c, law.law.b) == (None, pytest.approx(0.08, rel=1e-4))
    text = markdown(c)
    assert "- `dense-32` to `dense-128`, held out, text: L(C) = " in text
    assert "Holds between them." in text
    assert compared(*runs[:4]).laws == []  # two sizes
    with pytest.raises(UserError, match=r"baseline=dense: are several rows of one size; name one of dense-32, .*dense-lr"):
        compared(*runs, make_run(tmp_path, "dense-lr", DENSE, "model.dim=32", "optim.lr=1"))
    c = compared(*runs[:2], make_run(tmp_path, "dense", DENSE, "model.dim=32", "optim.lr=1"))
    assert [r.label for r in c.rows if r.is_baseline] == ["dense"]  # the one of just that name


def test_a_modality_without_targets_is_left_out(tmp_path):
    def losses(flops: float) -> dict[str, float]:
        return falling()(flops) | {"_image": float("nan")}

    runs = [make_run(tmp_path, name, words, losses=losses) for name, words in (("dense", DENSE), ("mot", MOT))]
    c = compared(*runs)
    assert set(row(c, "mot").cells["training"]) == {"all", "text"}
    assert "| `mot` | 1 | 1.00 | 1.00 | - |" in markdown(c)
