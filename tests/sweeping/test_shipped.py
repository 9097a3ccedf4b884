"""The sweeps that are shipped: every run composes, and what is called equal in FLOPs is."""

from __future__ import annotations

from pathlib import Path

import pytest

from momafuse.config.compose import compose_jobs, config_dir, group_options
from momafuse.config.describe import DescribeConfig
from momafuse.describe import description
from tests.sweeping.conftest import MakePlan

SWEEPS = group_options()["sweep"]
RUNS = {
    "iso_flops": "dense moe_1t1i moma_4t4i moe_8x mod_moe_1t1i mod_moma_4t4i mot mot_text_moe4 moe_token_choice moma_threshold",
    "expert_scaling": "dense moma_2t2i moma_4t4i moma_6t2i moma_7t1i moma_1t7i moma_3t5i",
    "untie_ablation": "dense qkv out norms ffn mot",
    "leave_one_out": "mot but_qkv but_out but_norms but_ffn dense",
    "more_experts": "dense moe_1t1i moma_4t4i double wide token_choice hash moe_1t1i_pre moma_4t4i_pre",
    "routers": "moe_1t1i moma_4t4i moma_threshold moe_8x moe_token_choice moe_top2 moe_loss_free",
}
ALL = ["qkv", "out", "norms", "ffn"]
# docs/zoo.md: mod_dense at nano_mod is 1.020 of dense; all others at nano 1.000, but for what routers cost
RATIOS = {"mod_moe_1t1i": 1.02, "mod_moma_4t4i": 1.02}


@pytest.mark.parametrize("size", ["micro", "nano"])
@pytest.mark.parametrize("sweep", SWEEPS)
def test_every_run_composes(sweep: str, size: str, plan: MakePlan) -> None:
    made = plan(f"sweep={sweep}", f"size={size}", "sweep.seeds=[0]")
    models = [run for run in made.runs if run.after is None]
    assert list(dict.fromkeys(run.member for run in models)) == RUNS[sweep].split()
    assert all(run.job.choices["size"] in (size, f"{size}_mod") for run in models)
    names = {run.member: run.config.model.name for run in models}
    assert len(set(names.values())) == len(names), "models of one name would count as seeds of one model"
    assert made.baseline in names.values()
    assert all(run.config.needs_auxiliary is (made.auxiliary_of(run) is not None) for run in models)


def test_what_the_ablations_untie(plan: MakePlan) -> None:
    def untied(sweep: str) -> dict[str, list[str]]:
        return {run.member: list(run.config.model.untie) for run in plan(f"sweep={sweep}", "sweep.seeds=[0]").runs}

    assert untied("untie_ablation") == {"dense": [], **{part: [part] for part in ALL}, "mot": ALL}
    but = {f"but_{part}": [other for other in ALL if other != part] for part in ALL}
    assert untied("leave_one_out") == {"mot": ALL, **but, "dense": []}


def test_the_routers_are_those_of_the_study() -> None:
    text = (Path(__file__).parents[2] / "scripts" / "study_routers.py").read_text()
    assert all(f'    "{member}": "' in text for member in RUNS["routers"].split())


@pytest.mark.parametrize("sweep", SWEEPS)
def test_a_file_opens_with_its_command(sweep: str) -> None:
    first, second = (config_dir() / "sweep" / f"{sweep}.yaml").read_text().splitlines()[:2]
    assert first == f"# python -m momafuse.sweep sweep={sweep}"
    assert second.startswith("# ")


def test_flops_are_equal(plan: MakePlan) -> None:
    for run in plan("sweep=iso_flops", "sweep.seeds=[0]", "sweep.auxiliary=false").runs:
        (job,) = compose_jobs(list(run.words), "describe", DescribeConfig)
        found = description(job)["flops_per_token"]
        assert isinstance(found, dict)
        assert found["dense_size"] == "nano"
        assert found["ratio_to_dense"] == pytest.approx(RATIOS.get(run.member, 1.0), abs=0.002), run.member
