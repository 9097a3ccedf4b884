"""YAML files and command-line overrides to a typed, checked `Job`, by Hydra's compose API; complaints are UserErrors.

The files lie in `momafuse/configs` (an installed wheel) or in `configs/` of a checkout; a user's folder
(`--config-dir`) is searched after them. Nothing is instantiated, no folder is made, no log is configured; only
`plugins` are imported.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, is_dataclass
from pathlib import Path
from typing import Any, Generic

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException
from typing_extensions import TypeVar
from yaml import YAMLError, safe_dump  # type: ignore[import-untyped]

import momafuse
from momafuse.config.convert import convert, field_types, plain
from momafuse.config.inherit import config_file, inherit, with_later_keys
from momafuse.config.nearest import did_you_mean
from momafuse.config.overrides import Override, for_hydra, parse, quote, refuse_two_files, sweep, verbatim
from momafuse.config.results import run_name
from momafuse.config.schema import Config, RunnableConfig
from momafuse.config.tokenizers import TokenizerTraining
from momafuse.config.validate import validate
from momafuse.config.validate_tokenizer import validate_tokenizer
from momafuse.errors import UserError
from momafuse.tokens.vocabulary import TEXT

C = TypeVar("C", default=Config)

Check = Callable[[Any], None]
STAGES = ("aux_routers",)  # experiments that go on with a trained model
SPOKEN = ("dense_speech", "mot_speech", "moma_4t4i2s")  # members with speech, on a corpus of their own


@dataclass(frozen=True)
class Job(Generic[C]):
    """One run as the command line asks for it; in `config` the run's name is resolved."""

    config: C
    yaml: str  # the resolved config, what config.yaml in a run folder holds
    choices: dict[str, str]  # group -> chosen file, e.g. {"size": "nano", "model": "moma"}
    experiment: str | None
    overrides: list[str]  # as typed
    user_dir: Path | None = None  # the user's folder of groups, for composing a relative of this job

    def words(self, overrides: Iterable[str]) -> list[str]:
        """A command with these overrides, and with the user's folder where they may need it."""
        return [*([] if self.user_dir is None else ["--config-dir", str(self.user_dir)]), *overrides]


def config_dir() -> Path:
    """Where the YAML files lie: inside the installed package, else at the top of the checkout."""
    package = Path(momafuse.__file__).resolve().parent
    for folder in (package / "configs", package.parent / "configs"):
        if (folder / "train.yaml").is_file():
            return folder
    raise AssertionError(f"no configs/ beside {package}: the wheel was built without them")


def group_options(user_dir: Path | None = None) -> dict[str, list[str]]:
    """Group -> its files, of ours and of the user's folder. Raises UserError for a folder that is not there."""
    if user_dir is not None and not user_dir.is_dir():
        raise UserError(f"--config-dir={user_dir}: no such folder")
    found: dict[str, set[str]] = {}
    for folder in (config_dir(), *([user_dir] if user_dir else [])):
        for group in sorted(p for p in folder.iterdir() if p.is_dir()):
            found.setdefault(group.name, set()).update(p.stem for p in group.glob("*.yaml"))
    return {group: sorted(options) for group, options in sorted(found.items()) if options}


def is_trained(tokenizer: str, user_dir: Path | None = None) -> bool:
    """Whether this file of the group `tokenizer` says how one tokenizer is trained; the others name some that are there."""
    raw, _ = _hydra([f"tokenizer={tokenizer}"], "train_tokenizer", Config, user_dir, group_options(user_dir))
    return "kind" in raw["tokenizer"]


def members() -> list[str]:
    """The experiments that are architectures over text and images: the zoo."""
    return [name for name in group_options()["experiment"] if name not in (*STAGES, *SPOKEN)]


def compose(overrides: Sequence[str] = (), primary: str = "train", *, user_dir: Path | None = None) -> Job:
    """The job of one train command line, e.g. `compose(["+experiment=moma_4t4i", "size=micro"])`; raises UserError."""
    return compose_jobs(overrides, primary, Config, user_dir=user_dir)[0]


def compose_jobs(
    words: Sequence[str],
    primary: str,
    schema: type[C],
    *,
    user_dir: Path | None = None,
    multirun: bool = False,
    check: Check | None = None,
) -> list[Job[C]]:
    """All jobs of a command line (more than one only under `multirun`), each composed and checked before any runs."""
    groups = group_options(user_dir)
    typed = [parse(word, schema, groups) for word in words]
    refuse_two_files(typed)
    runs = sweep(typed, schema) if multirun else [typed]
    jobs = [_compose_one(run, primary, schema, user_dir, groups, check) for run in runs]
    _refuse_shared_names(jobs)
    return jobs


def load_config(path: Path | str, schema: type[C] = Config) -> C:  # type: ignore[assignment]
    """The config of a run from its `config.yaml` (as `Job.yaml` writes it); UserError where it cannot be read."""
    try:
        raw = OmegaConf.to_container(OmegaConf.load(path))
    except (OSError, UnicodeError, YAMLError, OmegaConfBaseException) as error:
        problem = f"cannot be read as a config ({_one_line(error)})"
        raise UserError(f"{path}: {problem}; use a run folder's config.yaml") from error
    if not isinstance(raw, Mapping):
        raise UserError(f"{path}: holds no config; use a run folder's config.yaml")
    values = {str(k): v for k, v in raw.items()}
    if ("out" in values) is issubclass(schema, Config):  # a tokenizer's run has one, a model's none
        kinds = ("train_tokenizer", "train") if "out" in values else ("train", "train_tokenizer")
        raise UserError(f"{path}: is of a run of momafuse.{kinds[0]}, not of momafuse.{kinds[1]}; name another run")
    try:
        return convert(schema, with_later_keys(values) if issubclass(schema, Config) else values)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def import_plugins(names: Sequence[str]) -> None:
    """Imports each module: it registers what it brings. A module that is not there, or fails, is a UserError."""
    for name in names:
        try:
            importlib.import_module(name)
        except Exception as error:
            reason = f"{type(error).__name__}: {_one_line(error)}"
            raise UserError(f"plugins=[{name}]: cannot be imported ({reason}); is it on PYTHONPATH?") from error


def _compose_one(
    overrides: list[Override],
    primary: str,
    schema: type[C],
    user_dir: Path | None,
    groups: Mapping[str, Sequence[str]],
    check: Check | None,
) -> Job[C]:
    raw, choices = _hydra(for_hydra(overrides, schema), primary, schema, user_dir, groups)
    raw |= verbatim(overrides)
    import_plugins(_plugins(raw))
    _refuse_other_tokenizer(schema, raw, choices)
    experiment = choices.get("experiment")
    source = load_config(config_file(raw["model_from"])) if raw.get("model_from") else None
    if source is not None:
        raw = inherit(raw, plain(source), overrides)
    if "run" in field_types(schema) and isinstance(raw.get("run"), dict) and raw["run"].get("name") is None:
        base_group = "experiment" if experiment else "model" if "model" in choices else "tokenizer"
        named = [o for o in overrides if not (o.is_group and o.key == base_group)]
        base = choices.get(base_group, primary)
        if source is not None:
            base = f"{source.run.name}-{base}"
        trained = raw["tokenizer"].get("name") if isinstance(raw.get("tokenizer"), dict) else None
        raw["run"]["name"] = run_name(base, named) if trained is None else trained
    config = convert(schema, raw)
    if isinstance(config, Config):
        validate(config)
    elif isinstance(config, TokenizerTraining):
        validate_tokenizer(config)
    if check is not None:
        check(config)
    values, said = plain(config), verbatim(overrides)
    text = OmegaConf.to_yaml(OmegaConf.create({key: value for key, value in values.items() if key not in said}))
    text += safe_dump(said, allow_unicode=True) if said else ""
    return Job(config, text, choices, experiment, [str(o) for o in overrides], user_dir)


def _hydra(
    words: list[str], primary: str, schema: type, user_dir: Path | None, groups: Mapping[str, Sequence[str]]
) -> tuple[dict[str, Any], dict[str, str]]:
    """The resolved container that Hydra composes, and its group choices."""
    if user_dir is not None:
        words = [f"hydra.searchpath=[{quote(f'file://{user_dir.resolve()}')}]", *words]
    try:
        with initialize_config_dir(config_dir=str(config_dir()), version_base="1.3"):
            composed = hydra_compose(primary, words, return_hydra_config=True)
        choices = {g: _choice(c) for g, c in composed.hydra.runtime.choices.items() if not g.startswith("hydra/")}
        with open_dict(composed):
            del composed["hydra"]
        raw = OmegaConf.to_container(composed, resolve=True)
    except (HydraException, OmegaConfBaseException, YAMLError, ValueError, OSError) as error:
        raise _translated(error, groups, schema) from error
    assert isinstance(raw, dict)
    return {str(k): v for k, v in raw.items()}, {g: c for g, c in choices.items() if c}


def _choice(choice: Any) -> str:
    return "" if choice is None else choice if isinstance(choice, str) else "+".join(choice)


def _translated(error: Exception, groups: Mapping[str, Sequence[str]], schema: type) -> UserError:
    """Hydra's complaint as one line with the remedy."""
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        group, _, option = error.missing_cfg_file.rpartition("/")
        options = groups.get(group, error.options or [])
        return UserError(f"{group}={option}: no such option{did_you_mean(option, options)} ({', '.join(options)})")
    if isinstance(error, OverrideParseException):
        remedy = "put values with blanks or signs in quotes: 'KEY=\"VALUE\"'"
        word = error.override.removeprefix("++")
        return UserError(f"cannot read {word!r} ({_one_line(error.message.splitlines()[0])}); {remedy}")
    text = _one_line(error) or _one_line(error.__cause__)
    if found := re.match(r"Could not override '([^']+)'\. No match in the defaults list", text):
        if is_dataclass(section := field_types(schema).get(found[1])):  # data= of evaluate, which reads what is prepared
            keys = ", ".join(f"{found[1]}.{key}=..." for key in field_types(section))
            return UserError(f"{found[1]}=...: takes no file here; there is {keys}")
        return UserError(f"{found[1]} is not in the defaults list; write +{found[1]}=...")
    if found := re.search(r"Missing mandatory value: (\S+)", text):
        return UserError(f"{found[1]}: no value; write {found[1]}=...")
    if found := re.match(r"You must specify '([^']+)'", text):
        return UserError(f"{found[1]}: no value; write {found[1]}=... ({', '.join(groups.get(found[1], []))})")
    if found := re.match(r"Multiple values for (\S+)\.", text):
        return UserError(f"{found[1]} is chosen already; write {found[1]}=... once, without +")
    if found := re.match(r"Ambiguous value for argument '(.*?)' 1\.", text):
        return UserError(f"{found[1]}: several values need -m (one run for each)")
    return UserError(f"config: {text}")


def _one_line(error: object) -> str:
    return " ".join(str(error if error is not None else "").split())


def _plugins(raw: Mapping[str, Any]) -> list[str]:
    return convert(_Plugins, {"plugins": raw["plugins"]}).plugins if "plugins" in raw else []


@dataclass(frozen=True)
class _Plugins:
    plugins: list[str]


def _refuse_other_tokenizer(schema: type, raw: Mapping[str, Any], choices: Mapping[str, str]) -> None:
    """The group `tokenizer` holds files of two kinds: which tokenizers a corpus uses, and how one is trained."""
    tokenizer, name = raw.get("tokenizer"), choices.get("tokenizer", "")
    if not isinstance(tokenizer, Mapping):
        return
    is_pair = TEXT in tokenizer
    reads_pair = issubclass(schema, Config)
    if reads_pair and not is_pair and "name" in tokenizer:
        remedy = f"train it with `python -m momafuse.train_tokenizer tokenizer={name}`; here write tokenizer=starter"
        raise UserError(f"tokenizer={name}: says how one tokenizer is trained; {remedy}")
    if not reads_pair and is_pair:
        raise UserError(f"tokenizer={name}: names tokenizers that are there; to train one write tokenizer=starter_vq")


def _refuse_shared_names(jobs: Sequence[Job[C]]) -> None:
    names = [(c.run.root, c.run.name) for c in (j.config for j in jobs) if isinstance(c, RunnableConfig) and c.writes_run]
    for number, name in enumerate(names):
        if name in names[:number]:
            shared = f"-m: jobs {names.index(name) + 1} and {number + 1} share the run name {name[1]}"
            if isinstance(jobs[0].config, TokenizerTraining):
                raise UserError(f"{shared}, that of the tokenizer; name them, e.g. tokenizer.name='mine-${{run.seed}}'")
            remedy = "name them, e.g. run.name='run-${trainer.max_steps}'"
            raise UserError(f"{shared}, since what is swept does not change results; {remedy}")
