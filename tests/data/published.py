"""Small local files of the published forms of COCO, Flickr30k and VQA-v2, around given pictures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def name_of(n: int, subset: str) -> str:
    return f"COCO_{subset}_{n:012d}.jpg"


def subset_of(n: int) -> str:
    return "train2014" if n < 5 else "val2014"


def write_coco_pictures(folder: Path, pictures: list[bytes]) -> None:
    for n, data in enumerate(pictures):
        path = folder / subset_of(n) / name_of(n, subset_of(n))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


def write_karpathy(folder: Path, pictures: list[bytes], coco: bool) -> Path:
    """A picture has two captions; the split's names in turn, as neither set has one alone."""
    splits = ["train", "restval", "test", "val"] if coco else ["train", "test", "val"]
    images: list[dict[str, Any]] = []
    for n in range(len(pictures)):
        name = name_of(n, subset_of(n)) if coco else f"{1000 + n}.jpg"
        sentences = [
            {"tokens": ["a"], "raw": f" Picture {n}, caption {m}.\n", "imgid": n, "sentid": 2 * n + m} for m in range(2)
        ]
        entry = {"filename": name, "imgid": n, "sentids": [2 * n, 2 * n + 1], "split": splits[n % len(splits)]}
        images.append(entry | {"sentences": sentences} | ({"filepath": subset_of(n), "cocoid": n} if coco else {}))
    if coco:
        write_coco_pictures(folder, pictures)
    else:
        (folder / "flickr30k-images").mkdir(parents=True)
        for n, data in enumerate(pictures):
            (folder / "flickr30k-images" / f"{1000 + n}.jpg").write_bytes(data)
    name = "coco" if coco else "flickr30k"
    path = folder / f"dataset_{name}.json"
    path.write_text(json.dumps({"images": images, "dataset": name}))
    return path


def write_coco(folder: Path, pictures: list[bytes]) -> Path:
    write_coco_pictures(folder, pictures)
    (folder / "annotations").mkdir()
    for subset in ("train2014", "val2014"):
        numbers = [n for n in range(len(pictures)) if subset_of(n) == subset]
        images = [{"license": 1, "file_name": name_of(n, subset), "height": 9, "width": 9, "id": n} for n in numbers]
        captions = [{"image_id": n, "id": 40 + n, "caption": f"Picture {n}."} for n in reversed(numbers)]
        held = {"info": {}, "images": images, "licenses": [], "annotations": captions}
        (folder / "annotations" / f"captions_{subset}.json").write_text(json.dumps(held))
    return folder


def write_vqa(folder: Path, pictures: list[bytes]) -> Path:
    write_coco_pictures(folder, pictures)
    for subset in ("train2014", "val2014"):
        numbers = [n for n in range(len(pictures)) if subset_of(n) == subset]
        asked = [{"image_id": n, "question": f"What is {n}?", "question_id": 1000 * n} for n in numbers]
        answers = [
            {
                "question_type": "what is",
                "multiple_choice_answer": f"it {n}",
                "answers": [{"answer": "no", "answer_confidence": "yes", "answer_id": 1}],
                "image_id": n,
                "answer_type": "other",
                "question_id": 1000 * n,
            }
            for n in reversed(numbers)
        ]
        head = {"info": {}, "license": {}, "data_type": "mscoco", "data_subtype": subset}
        questions = head | {"task_type": "Open-Ended", "questions": asked}
        (folder / f"v2_OpenEnded_mscoco_{subset}_questions.json").write_text(json.dumps(questions))
        (folder / f"v2_mscoco_{subset}_annotations.json").write_text(json.dumps(head | {"annotations": answers}))
    return folder
