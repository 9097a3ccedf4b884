"""Composition: every file of the tree, who wins over whom, what stays text, and a user's own folder."""

from __future__ import annotations

import os
from dataclasses import fields
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from momafuse.config.compose import SPOKEN, STAGES, compose, compose_jobs, config_dir, group_options, load_config, members
from momafuse.config.convert import convert
from momafuse.config.launch import LaunchConfig
from momafuse.config.prepare import PrepareConfig
from momafuse.config.schema import Config
from momafuse.errors import UserError

EXPERIMENTS = {
    "dense": {"all": 1},
    "moe_1t1i": {"text": 1, "image": 1},
    "moma_2t2i": {"text": 2, "image": 2},
    "moma_4t4i": {"text": 4, "image": 4},
    "moma_6t2i": {"text": 6, "image": 2},
    "moma_7t1i": {"text": 7, "image": 1},
    "moma_1t7i": {"text": 1, "image": 7},
    "moma_3t5i": {"text": 3, "image": 5},
    "moe_8x": {"all": 8},
    "mod_dense": {"all": 1},
    "mod_moe_1t1i": {"text": 1, "image": 1},
    "mod_moma_4t4i": {"text": 4, "image": 4},
    "mot": {"all": 1},
    "mot_ffn_only": {"all": 1},
    "mot_text_moe4": {"text": 4, "image": 1},
    "dense_speech": {"all": 1},
    "mot_speech": {"all": 1},
    "moma_4t4i2s": {"text": 4, "image": 4, "speech": 2},
}
SIZES = {  # layers, width, ffn, heads, steps, tokens a step: arXiv 2407.21770, Tables 1 and 5
    "90m": (8, 512, 2048, 8, 160_000, 6_291_456),
    "435m": (24, 1024, 4096, 16, 160_000, 6_291_456),
    "1_4b": (24, 2048, 8192, 16, 120_000, 8_388_608),
    "90m_mod": (14, 512, 2048, 8, 160_000, 6_291_456),
    "435m_mod": (40, 1024, 4096, 16, 160_000, 6_291_456),
    "1_4b_mod": (32, 2304, 9216, 18, 120_000, 8_388_608),
}


def test_the_tree_holds_what_is_promised() -> None:
    options = group_options()
    assert set(EXPERIMENTS) <= set(options["experiment"])
    assert {"micro", "pico", "nano", *SIZES} <= set(options["size"])
    assert {"auto", "cpu", "gpu"} <= set(options["trainer"])
    assert {"one_step", "overfit"} <= set(options["debug"])


SWEPT = ("experiment", "size")  # by the test of every experiment at every size


@pytest.mark.parametrize("size", group_options()["size"])
@pytest.mark.parametrize("experiment", [*members(), *SPOKEN])
def test_every_experiment_composes_at_every_size(experiment: str, size: str) -> None:
    job = compose([f"+experiment={experiment}", f"size={size}"])
    assert job.experiment == experiment
    assert job.choices["size"] == size
    assert job.config.model.name == experiment
    if experiment in EXPERIMENTS:
        assert job.config.model.experts == EXPERIMENTS[experiment]


@pytest.mark.parametrize(
    ("group", "option"),
    [
        (g, o)
        for g, options in group_options().items()
        for o in options
        if g not in ("experiment", "size", "tokenizer", "cluster", "sweep")
    ],
)
def test_every_other_file_composes(group: str, option: str) -> None:
    word = f"{'+' if group == 'debug' else ''}{group}={option}"
    loaded = OmegaConf.to_container(OmegaConf.load(config_dir() / group / f"{option}.yaml"))
    sources = loaded.get("sources", {}) if group == "data" else {}
    paths = [f"data.sources.{name}.path=a" for name, source in sources.items() if source.get("path") == "???"]
    paths += ["data.path=a"] * (group == "data" and loaded["path"] == "???")
    speech = ["model=mot", "tokenizer=starter_codec2"] if group == "data" and loaded.get("share") else []
    assert compose([word, *speech, *paths]).choices[group] == option


@pytest.mark.parametrize("option", group_options()["cluster"])
def test_every_cluster_composes(option: str) -> None:
    (job,) = compose_jobs([f"cluster={option}"], "launch", LaunchConfig)
    assert job.config.run.name == "moma"


@pytest.mark.parametrize("size", SIZES)
def test_sizes_are_those_of_the_paper(size: str) -> None:
    config = compose([f"size={size}"]).config
    m, o, t = config.model, config.optim, config.trainer
    tokens = t.global_batch * config.data.sequence_length
    assert (m.n_layers, m.dim, m.ffn, m.n_heads, t.max_steps, tokens) == SIZES[size]
    assert (config.data.sequence_length, o.lr, o.lr_end, o.schedule, o.warmup_steps) == (
        4096,
        1e-4,
        1e-6,
        "linear",
        4000,
    )
    assert (o.beta1, o.beta2, o.eps, o.weight_decay, o.grad_clip) == (0.9, 0.95, 1e-5, 0.1, 1.0)


@pytest.mark.parametrize("file", sorted(p.stem for p in (config_dir() / "experiment").glob("*.yaml")))
def test_an_experiment_opens_with_its_command_and_sets_no_size(file: str) -> None:
    path = config_dir() / "experiment" / f"{file}.yaml"
    package, command = path.read_text().splitlines()[:2]
    assert package == "# @package _global_"
    more = " model_from=runs/demo" if file in STAGES else ""
    assert command == f"# python -m momafuse.train +experiment={file}{more}"
    model = OmegaConf.load(path).get("model", {})
    assert not set(model) & {"dim", "n_layers", "n_heads", "ffn"}
    assert len(path.read_text().splitlines()) <= 40, "an architecture is a page that is read beside the paper"
    assert "override /size" not in path.read_text()


def test_size_wins_over_groups_the_experiment_over_size_the_command_line_over_all(tmp_path: Path) -> None:
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text(
        "# @package _global_\ndefaults:\n  - override /model: moma\nmodel: {name: mine, experts: {text: 3}}\n"
        "optim: {lr: 5e-4}\n"
    )
    words = ["+experiment=mine", "size=90m"]
    config = compose(words, user_dir=tmp_path).config
    assert (config.optim.lr, config.optim.lr_end, config.model.dim) == (5e-4, 1e-6, 512)
    assert config.model.experts == {"text": 3, "image": 4}
    assert compose(["optim.lr=7e-4", *words], user_dir=tmp_path).config.optim.lr == 7e-4
    # what `debug` sets wins over both, since it is added last
    assert compose([*words, "+debug=one_step"], user_dir=tmp_path).config.trainer.max_steps == 1


@pytest.mark.parametrize("model", ["dense", "moe", "moma", "mot"])
@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_the_experts_of_an_experiment_replace_those_of_the_model(experiment: str, model: str) -> None:
    config = compose([f"model={model}", f"+experiment={experiment}"]).config
    assert config.model.experts == EXPERIMENTS[experiment]


def test_experts_on_the_command_line_replace() -> None:
    assert compose(["model.experts={all: 2}"]).config.model.experts == {"all": 2}
    assert compose(["model=dense", "model.experts={text: 1, image: 3}"]).config.model.experts == {"text": 1, "image": 3}
    assert compose(["model.experts.text=2"]).config.model.experts == {"text": 2, "image": 4}


def test_groups_stand_in_one_order_and_untied_networks_are_groups() -> None:
    model = compose(["model.experts={shared: 1, image: 2, text: 3, every: 2, start: 1}", "model.experts.text=6"]).config.model
    assert list(model.groups(("text", "image")).items()) == [("text", 6), ("image", 2), ("shared", 1)]
    assert [layer for layer in range(6) if model.has_experts(layer)] == [1, 3, 5]
    assert compose(["+experiment=mot"]).config.model.groups(("text", "image", "speech")) == {"text": 1, "image": 1, "speech": 1}


def test_text_stays_text() -> None:
    assert compose(["run.name=2024_11"]).config.run.name == "2024_11"
    assert compose(["run.name=1e3"]).config.run.name == "1e3"
    assert compose(["logger.tags=[2024_11,true]"]).config.logger.tags == ["2024_11", "true"]
    assert compose(["data.path=it's here, in C:\\x"]).config.data.path == "it's here, in C:\\x"
    assert compose(["run.name='run-${trainer.max_steps}'", "trainer.max_steps=7"]).config.run.name == "run-7"


def test_numbers_written_in_any_way() -> None:
    config = compose(["optim.lr=5e-3", "optim.eps=1e-8", "trainer.max_steps=1e3", "run.seed=1_000"]).config
    assert (config.optim.lr, config.optim.eps, config.trainer.max_steps, config.run.seed) == (5e-3, 1e-8, 1000, 1000)


def test_a_key_may_be_added_where_the_schema_has_it() -> None:
    words = ["data.sources.mine.reader=text_files", "data.sources.mine.path=texts", "data.sources.mine.weight=2"]
    made = compose([*words, "+data.sources.mine.variants=1", "~data.sources.starter_glosses"]).config.data.sources
    assert list(made) == ["starter_pictures", "mine"]
    assert (made["mine"].path, made["mine"].weight) == ("texts", 2.0)


@pytest.mark.parametrize("words", [["run.name=1e3", "logger.tags=['1',null,'a: b']"], ["size=90m", "data.path=x y"]])
def test_the_yaml_of_a_job_gives_the_config_back(words: list[str], tmp_path: Path) -> None:
    job = compose(["+experiment=dense", *words])
    path = tmp_path / "config.yaml"
    path.write_text(job.yaml)
    assert load_config(path) == job.config


def test_a_config_that_cannot_be_read(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    with pytest.raises(UserError, match=r"config\.yaml"):
        load_config(path)
    for text in ("a: [", "just text", "- 1", "\0", ""):
        path.write_text(text)
        with pytest.raises(UserError, match=r"config\.yaml"):
            load_config(path)
    path.write_text("run: {name: a, root: b, sed: 1}")
    with pytest.raises(UserError, match=r"config\.yaml: run\.sed: no such key; did you mean run\.seed\?"):
        load_config(path)


def test_prepare_reads_what_train_reads() -> None:
    words = ["+experiment=moma_2t2i", "data=starter", "data.image_share=0.25"]
    (job,) = compose_jobs(words, "prepare", PrepareConfig)
    own = {f.name for f in fields(PrepareConfig)} - {f.name for f in fields(Config)}
    assert {k: v for k, v in vars(job.config).items() if k not in own} == vars(compose(words, "train").config)


def test_plugins_come_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "momafuse_test_plugin.py").write_text("import os\nos.environ['MOMAFUSE_TEST_PLUGIN'] = 'here'\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("MOMAFUSE_TEST_PLUGIN", "")
    with pytest.raises(UserError, match=r"trainer\.max_steps=x"):  # imported, although what follows is wrong
        compose(["plugins=[momafuse_test_plugin]", "trainer.max_steps=x"])
    assert os.environ["MOMAFUSE_TEST_PLUGIN"] == "here"


def test_interpolations_and_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOMAFUSE_TEST_ROOT", "elsewhere")
    config = compose(["run.root=${oc.env:MOMAFUSE_TEST_ROOT}", "optim.lr_end=${optim.lr}"]).config
    assert (config.run.root, config.optim.lr_end) == ("elsewhere", config.optim.lr)


def test_defaults_are_whole() -> None:
    raw = OmegaConf.to_container(OmegaConf.create(compose([]).yaml))
    assert convert(Config, raw) == compose([]).config
