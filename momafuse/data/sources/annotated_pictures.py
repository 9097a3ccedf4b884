"""Published sets of pictures with captions or questions, read from the JSON files and picture folders that they come in.

    karpathy       FOLDER/dataset_coco.json or dataset_flickr30k.json (Karpathy and Fei-Fei, arXiv 1412.2306): train and
                   restval are trained on, val is held out, test is left out. A document is one caption with its picture.
    karpathy_i2t   the test split alone, all of it held out: the caption, given the picture
    karpathy_t2i   the same: the picture, given the caption
    coco_captions  FOLDER/annotations/captions_{train,val}2014.json (arXiv 1504.00325): val2014 is held out
    vqa_v2         FOLDER/v2_OpenEnded_mscoco_{train,val}2014_questions.json with v2_mscoco_{train,val}2014_annotations.json
                   (arXiv 1612.00837): the most common answer, given picture and question; val2014 is held out

Pictures lie in FOLDER/train2014 and FOLDER/val2014, those of Flickr30k in FOLDER/flickr30k-images or FOLDER. Where only
held-out files are there, the source is for evaluation alone. One file is held in memory at a time, its rows as well.
Pictures are not opened here: a missing one is rejected when it is encoded.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from momafuse.config.schema import SourceConfig
from momafuse.data.sources.registry import Source, folder_fingerprint, in_memory, register, user_folder
from momafuse.data.sources.splitting import SplitName
from momafuse.data.sources.streams import Segments, all_files, unicode_text
from momafuse.errors import UserError

Row = tuple[str, SplitName, Segments]
Given = Literal["image", "text"]
_SUBSETS: dict[str, SplitName] = {"train2014": "train", "val2014": "validation"}
_KARPATHY: dict[str, SplitName] = {"train": "train", "restval": "train", "val": "validation"}
_KARPATHY_TEST: dict[str, SplitName] = {"test": "validation"}
_FLICKR_PICTURES = "flickr30k-images"


@register("karpathy")
def karpathy(config: SourceConfig) -> Source:
    """Pairs to train on. Raises UserError where there is no such file, or where it is of another form."""
    return _karpathy(config, _KARPATHY)


@register("karpathy_i2t")
def karpathy_i2t(config: SourceConfig) -> Source:
    """Captions of the test split, given their pictures."""
    return _karpathy(config, _KARPATHY_TEST, "image")


@register("karpathy_t2i")
def karpathy_t2i(config: SourceConfig) -> Source:
    """Pictures of the test split, given each of their captions."""
    return _karpathy(config, _KARPATHY_TEST, "text")


@register("coco_captions")
def coco_captions(config: SourceConfig) -> Source:
    """Pairs of the years' files that are there. Raises UserError where none is, or where one is of another form."""
    folder, rows = user_folder(config), list[Row]()
    for subset, split in _SUBSETS.items():
        file = folder / "annotations" / f"captions_{subset}.json"
        if not file.is_file():
            continue
        with _named(config, file):
            images, captions = _lists(file, "images", "annotations")
            names = dict(_fields(image, f"images[{n}]", id=int, file_name=str) for n, image in enumerate(images))
            for n, annotation in enumerate(captions):
                where = f"annotations[{n}]"
                key, image, caption = _fields(annotation, where, id=int, image_id=int, caption=str)
                picture = _picture(folder / subset / _entry(names, image, where, "image_id"))
                rows += _pair(f"{subset}/{key}", split, picture, caption)
    return _source(config, folder, rows, "annotations/captions_train2014.json or annotations/captions_val2014.json")


@register("vqa_v2")
def vqa_v2(config: SourceConfig) -> Source:
    """Answers, given picture and question. Raises UserError where no questions are there, or those without answers."""
    folder, rows = user_folder(config), list[Row]()
    for subset, split in _SUBSETS.items():
        file, answers = folder / f"v2_OpenEnded_mscoco_{subset}_questions.json", folder / f"v2_mscoco_{subset}_annotations.json"
        if not file.is_file():
            continue
        with _named(config, answers):
            (annotations,) = _lists(answers, "annotations")
            form = {"question_id": int, "multiple_choice_answer": str}
            answer_of = dict(_fields(annotation, f"annotations[{n}]", **form) for n, annotation in enumerate(annotations))
        with _named(config, file):
            (questions,) = _lists(file, "questions")
            for n, entry in enumerate(questions):
                where = f"questions[{n}]"
                key, image, question = _fields(entry, where, question_id=int, image_id=int, question=str)
                answer = _entry(answer_of, key, where, "question_id")
                picture = _picture(folder / subset / f"COCO_{subset}_{image:012d}.jpg") | {"given": True}
                asked = _text(question + "\n") | {"given": True}  # a line break ends a turn, as in conversations
                rows.append((f"{subset}/{key}", split, [picture, asked, _text(answer)]))
    return _source(config, folder, rows, "v2_OpenEnded_mscoco_train2014_questions.json or .._val2014_questions.json")


def _karpathy(config: SourceConfig, splits: dict[str, SplitName], given: Given | None = None) -> Source:
    path, rows = user_folder(config), list[Row]()
    files = [path] if path.is_file() else sorted(path.glob("dataset_*.json"))
    if len(files) > 1:
        raise UserError(f"path={config.path}: {', '.join(f.name for f in files)} are here; set it to one of these files")
    folder = path.parent if path.is_file() else path
    plain = folder / _FLICKR_PICTURES if (folder / _FLICKR_PICTURES).is_dir() else folder
    for file in files:
        with _named(config, file):
            (images,) = _lists(file, "images")
            for n, entry in enumerate(images):
                name, part, sentences = _fields(entry, f"images[{n}]", filename=str, split=str, sentences=list)
                if part not in splits:
                    continue
                picture = _picture((folder / entry["filepath"] if "filepath" in entry else plain) / name)
                for m, sentence in enumerate(sentences):
                    key, caption = _fields(sentence, f"images[{n}].sentences[{m}]", sentid=int, raw=str)
                    rows += _pair(f"{name}/{key}", splits[part], picture, caption, given)
    return _source(config, folder, rows, f"captions of the splits {', '.join(splits)} in a dataset_coco.json or the like")


def _pair(key: str, split: SplitName, picture: dict[str, Any], caption: str, given: Given | None = None) -> list[Row]:
    """What is given comes first; a blank caption is left out."""
    segments = [picture | {"given": given == "image"}, _text(caption.strip()) | {"given": given == "text"}]
    return [(key, split, segments[::-1] if given == "text" else segments)] if caption.strip() else []


def _picture(path: Path) -> dict[str, Any]:
    return {"text": None, "image": {"bytes": None, "path": str(path)}}


def _text(text: str) -> dict[str, Any]:
    return {"text": unicode_text(text), "image": None}


def _source(config: SourceConfig, folder: Path, rows: list[Row], wanted: str) -> Source:
    if not rows:
        raise UserError(f"path={config.path}: no {wanted} here; set it to the folder that holds it")
    alone = all(split == "validation" for _, split, _ in rows)
    return Source(in_memory(rows), folder_fingerprint(all_files(folder), folder), held_out_only=alone)


@contextmanager
def _named(config: SourceConfig, file: Path) -> Iterator[None]:
    """What is wrong with a file becomes a UserError that names it."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"path={config.path}: cannot read {file.name}: {error.strerror}; put the published file there"
        ) from error
    except ValueError as error:
        reason = " ".join(str(error).split())
        raise UserError(f"path={config.path}: {file.name}: {reason}; it is not of the published form") from error


def _lists(file: Path, *names: str) -> list[Any]:
    return _fields(json.loads(file.read_text(encoding="utf-8")), "the file", **dict.fromkeys(names, list))


def _fields(entry: Any, where: str, **types: type) -> list[Any]:
    """The named fields in order. ValueError where one is missing or of another type."""
    for name, kind in types.items():
        if not isinstance(entry, dict) or not isinstance(entry.get(name), kind):
            raise ValueError(f"{where} has no {name} of type {kind.__name__}")
    return [entry[name] for name in types]


def _entry(entries: dict[int, str], key: int, where: str, name: str) -> str:
    if key not in entries:
        raise ValueError(f"{where}.{name}={key}: nothing has this id")
    return entries[key]
