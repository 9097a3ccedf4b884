"""Each rule between fields: the line it gives, and that the limit itself passes."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from momafuse.config.compose import compose, load_config
from momafuse.config.convert import convert
from momafuse.config.inherit import with_later_keys
from momafuse.config.schema import Config
from momafuse.config.validate import check_run_root, validate
from momafuse.errors import UserError

HEADS = "must divide model.dim=256 into heads of an even width"
DEPTH = "model.depth={{every: {}, start: {}, capacity: {}, per_modality: {}}}"
ONE_STAGE = "data.stages=[{{from: {}, weights: {{{}}}}}]"
TWO_STAGES = "data.stages=[{{from: {}, weights: {{starter_glosses: 2}}}}, {{from: {}, weights: {{starter_pictures: 2}}}}]"
TOKEN = "router.kind=token_choice"
ROUTERS = {
    "router.kind=token_choise": "router.kind=token_choise: no such kind of router; did you mean token_choice? (expert_choice, ",
    "router.kind=nearest": "one of another package needs plugins=[its module]",
    f"{TOKEN}  router.capacity_factor=4.5": "router.capacity_factor=4.5: an expert of `text` would take more tokens than",
    "model.norm_eps=0": "a row that no expert takes would be divided by 0; write 1e-5, or router.capacity_factor=4",
    "router.kind=threshold  model.norm_eps=0  router.capacity_factor=4": "would be divided by 0; write 1e-5",
    f"{TOKEN}  router.dropless=false  model.norm_eps=0": "model.norm_eps=0.0: a row that no expert takes",
    f"{TOKEN}  router.top_k=5": "router.top_k=5: a row cannot go to more experts than `text` has; at most 4",
    f"{TOKEN}  router.top_k=3  model.experts={{text: 4, image: 2}}": "to more experts than `image` has; at most 2",
    f"{TOKEN}  router.normalise=true": "router.normalise=true: with router.top_k=1 every gate would be 1, and the router would",
    "router.top_k=0": "router.top_k=0: must be greater than 0",
    "router.top_k=2": "router.top_k=2: is for router.kind=token_choice, not expert_choice; write 1",
    "router.kind=threshold  router.dropless=false": "is for router.kind=token_choice, not threshold; write true",
    "router.kind=hash  router.bias_rate=0.001": "router.bias_rate=0.001: is for router.kind=token_choice, not hash; write 0",
    f"{TOKEN}  router.bias_rate=-1": "router.bias_rate=-1.0: must not be negative",
    f"{TOKEN}  router.priority=true": "router.priority=true: orders what a capacity drops; add router.dropless=false",
    "router.decay=1": "router.decay=1.0: must be at least 0 and below 1, e.g. 0.99",
    "router.decay=-0.1": "router.decay=-0.1: must be at least 0 and below 1",
    f"{TOKEN}  trainer.backend=grouped_mm": "trainer.backend=grouped_mm: only the device knows how many",
    "router.kind=hash  router.loss.balance=0.1": "router.kind=hash: has no scores, so it has no losses",
    "router.kind=uniform  router.loss.local_entropy={text: 0.1}": "router.kind=uniform: has no scores",
    "router.loss.load=0.1  router.noise=true": "is of how noise would choose; add router.kind=token_choice",
    f"{TOKEN}  router.loss.load=0.1": "router.loss.load=0.1: is of how noise would choose",
    "router.loss.balance=-1": "router.loss.balance=-1.0: must not be negative",
    "router.loss.importance=-1": "router.loss.importance=-1.0: must not be negative",
    "router.loss.z=-1": "router.loss.z=-1.0: must not be negative",
    "router.loss.local_entropy={imgae: 1}": "router.loss.local_entropy.imgae=1.0: no such modality; did you mean image?",
    "router.loss.global_entropy={txt: 1}": "router.loss.global_entropy.txt=1.0: no such modality; did you mean text?",
    "router.loss.local_entropy={text: -1}": "router.loss.local_entropy.text=-1.0: must be at least 0",
    "router.loss.global_entropy={text: -1}": "router.loss.global_entropy.text=-1.0: must be at least 0",
    "router.loss.least_experts={text: 0.5}": "router.loss.least_experts.text=0.5: must be at least 1",
    "router.loss.least_experts={spech: 2}": "router.loss.least_experts.spech=2.0: no such modality",
}
BROKEN = ROUTERS | {
    "model.n_heads=7": f"model.n_heads=7: {HEADS}; the nearest that do: 4 or 8",
    "model.n_heads=256": f"model.n_heads=256: {HEADS}; the nearest that do: 128",
    "model.dim=33": "model.dim=33: must be even, since rotary positions turn pairs of channels",
    "model.dim=0": "model.dim=0: must be greater than 0",
    "model.n_layers=-1": "model.n_layers=-1: must be greater than 0",
    "run.seed=-1": "run.seed=-1: must not be negative",
    "trainer.eval_every=-1": "trainer.eval_every=-1: must not be negative",
    "checkpoint.every=-5": "checkpoint.every=-5: must not be negative",
    "checkpoint.keep_last=0": "checkpoint.keep_last=0: must be at least 1",
    "checkpoint.keep_every=0": "checkpoint.keep_every=0: must be at least 1, or null",
    "checkpoint.keep_every=250  checkpoint.every=100": "multiple of checkpoint.every=100, the steps that are saved, e.g. 200",
    "checkpoint.keep_every=50  checkpoint.every=0": "must be a multiple of checkpoint.every=0 (only the end)",
    "data.sources.starter_glosses.weight=-1": "data.sources.starter_glosses.weight=-1.0: must not be negative",
    "data.sources.starter_glosses.variants=0": "data.sources.starter_glosses.variants=0: must be greater than 0",
    ONE_STAGE.format(
        1, "starter_glosses: 1"
    ): "data.stages[0].from=1.0: must lie between 0 and 1: a share of the run's planned",
    ONE_STAGE.format(0, "starter_glosses: 1"): "data.stages[0].from=0.0: must lie between 0 and 1",
    ONE_STAGE.format(0.5, ""): "data.stages[0].weights={}: name at least one source, e.g. {starter_pictures: 0.5}",
    ONE_STAGE.format(0.5, "starter_gloses: 1"): "weights.starter_gloses=1.0: no such source; did you mean starter_glosses? (",
    ONE_STAGE.format(0.5, "starter_glosses: -1"): "data.stages[0].weights.starter_glosses=-1.0: must not be negative",
    TWO_STAGES.format(0.5, 0.5): "data.stages[1].from=0.5: must be above 0.5, where the stage before it begins; put them in",
    TWO_STAGES.format(0.8, 0.5): "data.stages[1].from=0.5: must be above 0.8",
    "data.sequence_length=1": "data.sequence_length=1: must be at least 2",
    "data.image_share=1": "data.image_share=1.0: must lie between 0 and 1, e.g. 0.5, or be `experts`",
    "data.image_share=experts  model.experts={all: 8}": "needs experts of each modality; give a number, e.g. 0.5",
    "~data.sources.starter_glosses  ~data.sources.starter_pictures": "data.sources={}: name at least one source",
    "model.experts={text: 1}": "model.experts={text: 1}: no expert serves image; add model.experts.image=1",
    "model.experts={}": "model.experts={}: no expert serves text; add model.experts.text=1",
    "model.experts.all=1": "all and text both serve text; drop one, e.g. model.experts.all=null",
    "model.experts.text=0": "model.experts.text=0: a group needs at least one expert; write null to drop the group",
    "model.experts.imgae=1": "no modality imgae; did you mean image? (all, shared, text, image)",
    "model.experts.shared=0": "model.experts.shared=0: a group needs at least one expert; write null to drop the group",
    "model.experts={shared: 1}": "model.experts={shared: 1}: no expert serves text; add model.experts.text=1",
    "model.experts.every=0": "model.experts.every=0: must be at least 1",
    "model.experts.start=6": "model.experts.start=6: must name one of the 6 layers, 0 to 5",
    "model.width_share={imgae: 0.5}": "model.width_share.imgae=0.5: no such group; did you mean image? (text, image)",
    "model.width_share={image: 0}": "model.width_share.image=0.0: must be greater than 0, e.g. 0.3333",
    "model.untie=[qkv, qkv]": "model.untie=[qkv, qkv]: names a part twice",
    "model.towers=[[text, image]]": "model.towers=[[text, image]]: nothing is untied, so all share everything; add",
    "model.towers=[[text, imag]]  model.untie=[qkv]": "model.towers=[[text, imag]]: no modality imag; did you mean image?",
    "model.towers=[[text], [text]]  model.untie=[qkv]": "model.towers=[[text], [text]]: names text twice",
    "model.experts={text+shared: 4, image: 2}": "no modality shared (text, image)",
    "model.experts={text+image: 4, text: 2}": "text+image and text both serve text; drop one",
    "model.dropout=0.1": "model.dropout=0.1: does not combine with norms after the sub-layers; add model.placement=pre",
    "model.dropout=1  model.placement=pre": "model.dropout=1.0: must be at least 0 and below 1",
    "model.attention.n_kv_heads=3": "model.attention.n_kv_heads=3: must divide model.n_heads=4: 1, 2, 4, or null for all",
    "model.attention.qk_norm=none  model.attention.qk_norm_per_head=true": "model.attention.qk_norm_per_head=true: model."
    "attention.qk_norm=none leaves no norm to have weights; write model.attention.qk_norm=rms or layer",
    "model.vocabulary_size=0": "model.vocabulary_size=0: must be greater than 0",
    DEPTH.format(2, 9, 0.25, "true"): "model.depth.start=9: must name one of the 6 layers, 0 to 5",
    DEPTH.format(2, 0, 1.5, "true"): "model.depth.capacity=1.5: must be above 0 and at most 1, e.g. 0.25",
    DEPTH.format(2, 0, 0.25, "false") + "  trainer.backend=bmm": "trainer.backend=bmm: only the device knows the counts of",
    DEPTH.format(2, 0, 0.25, "false") + "  trainer.backend=grouped_mm": "trainer.backend=grouped_mm: only the device knows",
    DEPTH.format(2, 0, 0.25, "false") + "  trainer.micro_batch=2  model.experts={all: 1}": "at least router.pool=4",
    "optim.train=[]": "optim.train=[]: no parameter would learn; write ['*'] for all",
    "router.capacity_factor=0": "router.capacity_factor=0.0: must be greater than 0",
    "router.capacity_factor=4.5": "router.capacity_factor=4.5: an expert of `text` would take more tokens than",
    "trainer.micro_batch=2": "trainer.micro_batch=2: must be at least router.pool=4",
    "trainer.global_batch=6": "trainer.global_batch=6: must be a multiple of router.pool=4, e.g. 4 or 8",
    "trainer.backend=grouped_mm  model.ffn_multiple_of=4": "trainer.backend=grouped_mm: wants model.dim=256 and",
    "trainer.max_tokens=100": "trainer.max_tokens=100: is less than one step; at least 4096",
    "objective.weight.imgae=1": "objective.weight.imgae=1.0: no such modality; did you mean image?",
    "objective.weight.image=-1": "objective.weight.image=-1.0: must not be negative",
    "~objective.weight.text": "objective.weight.text: no value; write objective.weight.text=1.0",
    "objective.weight.image=0  objective.weight.text=0": "at least one modality must weigh more than 0",
    "optim.beta2=1": "optim.beta2=1.0: must be at least 0 and below 1",
    "optim.lr_end=1": "optim.lr_end=1.0: must be at most optim.lr=0.004",
    "optim.schedule_steps=20": "optim.schedule_steps=20: must be more than optim.warmup_steps=20",
    "run.name=a/b": "run.name=a/b: must be fit for a folder",
    "run.name=..": "run.name=..: must be fit for a folder",
    "run.root=": "run.root='': must name a folder",
    "resume=": "resume='': write auto, none or the path",
}
SOUND = (
    *(f"router.kind={kind}" for kind in ("token_choice", "threshold", "hash", "uniform")),
    f"{TOKEN}  router.top_k=4  router.normalise=true  router.score=sigmoid  router.bias_rate=0.001",
    f"{TOKEN}  router.dropless=false  router.priority=true  router.capacity_factor=1.25",
    f"{TOKEN}  router.noise=true  router.loss.load=0.1",
    "router.kind=threshold  router.decay=0  router.loss.balance=0.1  trainer.backend=reference",
    "router.loss.z=0.1  router.loss.least_experts={text: 1}  router.loss.global_entropy={text: 0, image: 0.5}",
    "model.norm_eps=0  router.capacity_factor=4",  # every expert takes every row
    f"{TOKEN}  model.norm_eps=0",  # every row has an expert
    "router.kind=hash  model.norm_eps=0",
    TWO_STAGES.format(0.5, 0.8),
    ONE_STAGE.format(0.5, "starter_glosses: 0"),
    "data.sources.starter_glosses.weight=0",  # it may come in later
    "model.experts={text: 2, image: 1, shared: 3, every: 2, start: 5}",
    "model.width_share={image: 0.3333}  model.untie=[norms, out]  model.attention.n_kv_heads=1",
    "model.attention.qk_norm=layer  model.attention.qk_norm_per_head=true",
    "model.dropout=0.1  model.placement=pre",
    DEPTH.format(1, 0, 1, "true"),
    # what one network computes has constant sizes, whichever rows are kept
    DEPTH.format(2, 0, 0.25, "false") + "  model.experts={all: 1}  trainer.backend=bmm",
    DEPTH.format(2, 0, 0.25, "false") + "  trainer.backend=triton",  # its kernels read counts on the device
    # kept rows are chosen within a sequence: no pool to respect
    DEPTH.format(2, 0, 0.25, "true") + "  model.experts={all: 1}  trainer.micro_batch=2",
    "model.n_heads=128",
    "router.capacity_factor=4",
    # the most that is taken at once (config/shares.py): 4, 8 and 8 are
    "trainer.micro_batch=6",
    "trainer.micro_batch=12",
    "trainer.global_batch=8",
    # without a router there is no pool to respect
    "trainer.micro_batch=6  trainer.global_batch=12  model.experts={all: 1}",
    "trainer.micro_batch=1  model.experts={text: 1, image: 1}",
    "trainer.max_tokens=4096",
    "trainer.backend=grouped_mm  model.ffn_multiple_of=8",
    "trainer.max_steps=1",  # shorter than the warm-up: a try, and the same command with more steps goes on
    "trainer.eval_every=0  checkpoint.every=0",
    "checkpoint.every=50  checkpoint.keep_every=150",
    "objective.weight.image=0",
    "optim.schedule_steps=21  optim.lr_end=2e-3",
    "data.image_share=experts",
    "run.name='my run (2)'",
)


@pytest.fixture(scope="module")
def base() -> dict[str, Any]:
    return asdict(compose([]).config)


def changed(base: dict[str, Any], words: str) -> Config:
    """The default config with `key=value` set and `~key` taken out; words stand two blanks apart."""
    raw = deepcopy(base)
    for word in words.split("  "):
        key, _, value = word.removeprefix("~").partition("=")
        *parents, leaf = key.split(".")
        node = raw
        for parent in parents:
            node = node[parent]
        if word.startswith("~"):
            del node[leaf]
        else:
            node[leaf] = "" if value == "" else OmegaConf.to_container(OmegaConf.create(f"value: {value}"))["value"]
    return convert(Config, raw)


@pytest.mark.parametrize("words", BROKEN)
def test_a_broken_rule_is_one_line(words: str, base: dict[str, Any]) -> None:
    config = changed(base, words)
    with pytest.raises(UserError) as raised:
        validate(config)
    assert BROKEN[words] in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("words", SOUND)
def test_what_is_allowed_passes(words: str, base: dict[str, Any]) -> None:
    validate(changed(base, words))


def test_runs_from_before_there_were_kinds_are_what_they_were() -> None:
    """Their config.yaml lacks the keys, and gets those of a router of then."""
    config = asdict(compose([]).config)
    old = deepcopy(config)
    old["router"] = {key: config["router"][key] for key in ("pool", "capacity_factor", "noise")}
    filled = convert(Config, with_later_keys(old))
    assert filled == convert(Config, config)
    assert filled.router.kind == "expert_choice"
    assert not filled.router.loss.any


def test_a_run_from_before_heads_had_norms_of_their_own_loads_as_it_was(tmp_path: Path) -> None:
    """The key is one of a section within a section."""
    job = compose(["model.attention.qk_norm=layer"])
    old = asdict(job.config)
    del old["model"]["attention"]["qk_norm_per_head"]
    del old["model"]["towers"]
    (tmp_path / "config.yaml").write_text(OmegaConf.to_yaml(OmegaConf.create(old)))
    assert load_config(tmp_path / "config.yaml") == job.config
    assert not job.config.model.attention.qk_norm_per_head
    del old["model"]["attention"]
    with pytest.raises(UserError, match=r"model\.attention: no value"):
        convert(Config, with_later_keys(old))


def test_composing_validates() -> None:
    with pytest.raises(UserError, match=r"model\.n_heads=7: must divide"):
        compose(["model.n_heads=7"])


def test_a_run_root_that_cannot_hold_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(root: Path) -> str:
        with pytest.raises(UserError) as caught:
            check_run_root(compose([f"run.root='{root}'"]).config)
        return str(caught.value)

    (tmp_path / "file").touch()
    for root in (tmp_path / "file", tmp_path / "file" / "deep" / "runs"):
        assert refused(root) == f"run.root={root}: {tmp_path / 'file'} is a file; name a folder"
    check_run_root(compose([f"run.root='{tmp_path / 'new' / 'runs'}'"]).config)
    assert not (tmp_path / "new").exists()
    monkeypatch.setattr("os.access", lambda *_: False)  # root may write anywhere, so that chmod would not do
    assert refused(tmp_path / "new") == f"run.root={tmp_path / 'new'}: {tmp_path} may not be written; name another folder"
