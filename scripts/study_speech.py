"""What a speech tokenizer keeps of held-out speech, beside Codec2 at 700 bits a second: codes, frames, words.

    python scripts/study_speech.py                          # the shipped one: docs/results/speech_tokenizer.{json,png,..wav}
    python scripts/study_speech.py --tokenizer tokenizers/mine.safetensors --out tokenizers

Of the held-out sounds of --folders: codes used, and the error of log-mel frames of the decoded samples (levelled, at the best
lag), over all bands and below 3,700 Hz, where both codecs have something to say. Of the held-out prompts (English): the words
that pocketsphinx recognises in the original and in what each codec makes of it. Wants `pocketsphinx` and the extra `speech`.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import soxr
from rich.progress import track
from speech_study.frames import Error, distance, telephone_bands
from speech_study.words import Recogniser, plain, recognised

from momafuse.config.schema import SourceConfig
from momafuse.data.codecs import load_codecs
from momafuse.data.sources import Item, Raw, open_source
from momafuse.reports.plots import plot_reconstructions
from momafuse.speech.audio import Samples, read_audio, sound_file
from momafuse.speech.codec2 import NAME as CODEC2
from momafuse.speech.codec2 import RATE as CODEC2_RATE
from momafuse.speech.mel import RATE
from momafuse.speech.tokenizer import SpeechTokenizer, levelled

SHOWN = 8
FOLDERS = ("spoken_pictures/triples", "spoken_pictures/spoken", "spoken_prompts")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokenizer", default="starter_speech_v1", help="its name, or the path of its weights")
    parser.add_argument("--folders", nargs="+", default=list(FOLDERS), help="of sounds with metadata")
    parser.add_argument("--prompts", default="spoken_prompts", help="the folder, one of those, of English sounds with texts")
    parser.add_argument("--out", type=Path, default=Path("docs/results"))
    asked = parser.parse_args()
    sounds = {folder: held_out(folder) for folder in asked.folders}
    if asked.prompts not in sounds:
        sys.exit(f"study_speech: --prompts={asked.prompts}: not one of --folders; name it there, too")
    coders = {"ours": Coder(asked.tokenizer), "codec2": Coder(CODEC2)}
    figures: dict[str, Any] = {name: coder.figures(sounds) for name, coder in coders.items()}
    figures["words"] = words(coders, sounds[asked.prompts])
    asked.out.mkdir(parents=True, exist_ok=True)
    path = asked.out / "speech_tokenizer"
    path.with_suffix(".json").write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    show(coders["ours"], sounds[asked.prompts], path)
    print(json.dumps(figures, indent=2))


class Coder:
    """A codec of speech, from and to 16,000 samples a second."""

    def __init__(self, name: str) -> None:
        self.codec = load_codecs({"speech": name})["speech"]
        self.rate = RATE if isinstance(self.codec, SpeechTokenizer) else CODEC2_RATE

    def codes(self, samples: Samples) -> Any:
        return self.codec.encode([soxr.resample(samples, RATE, self.rate)])[0]

    def decoded(self, codes: Any) -> Samples:
        out: Samples = soxr.resample(self.codec.decode(codes), self.rate, RATE).astype(np.float32)
        return out

    def figures(self, sounds: dict[str, list[tuple[Samples, str]]]) -> dict[str, Any]:
        uses = np.zeros(self.codec.codes, np.int64)
        errors = {"all bands": Error(), "below 3,700 Hz": Error()}
        seconds = 0.0
        for samples, _ in track([sound for found in sounds.values() for sound in found], "frames"):
            codes = self.codes(samples)
            uses += np.bincount(codes, minlength=len(uses))
            seconds += len(samples) / RATE
            found = distance(samples, self.decoded(codes), 80)
            errors["all bands"].add(found)
            errors["below 3,700 Hz"].add(found[: telephone_bands()])
        return {
            "seconds": round(seconds, 1),
            "codes_used": int((uses > 0).sum()),
            "codes": len(uses),
            "codes_a_second": round(float(uses.sum()) / seconds, 1),
            "error_db": {name: {"mean": round(e.mean, 3), "rms": round(e.rms, 3)} for name, e in errors.items()},
        }


def words(coders: dict[str, Coder], prompts: Sequence[tuple[Samples, str]]) -> dict[str, Any]:
    """Words said, those recognised in the original, and of these (`of_these`) and of all, those recognised after a codec."""
    ear = Recogniser()
    counts: dict[str, Any] = {"prompts": len(prompts), "said": 0, "original": 0}
    counts |= {name: {"recognised": 0, "of_these": 0} for name in coders}
    for samples, text in track(prompts, "words"):
        said = plain(text)
        in_original = recognised(said, ear.words(samples))
        counts["said"] += len(said)
        counts["original"] += len(in_original)
        for name, coder in coders.items():
            after = recognised(said, ear.words(coder.decoded(coder.codes(samples))))
            counts[name]["recognised"] += len(after)
            counts[name]["of_these"] += len(after & in_original)
    return counts


def held_out(folder: str) -> list[tuple[Samples, str]]:
    """Levelled samples and text of the sounds that are not trained on; what cannot be used is left out, as in training."""
    found = []
    source = open_source("sounds", SourceConfig(reader="spoken_folder", path=folder, weight=1.0, variants=1))
    for item in source.items():
        if item.split == "validation":
            try:
                found.append(
                    (levelled(read_audio(_speech(item).read(), RATE)), " ".join(s for s in item.segments if isinstance(s, str)))
                )
            except (OSError, ValueError) as error:
                print(f"{folder}/{item.key}: {error}", file=sys.stderr)
    return found


def show(coder: Coder, prompts: Sequence[tuple[Samples, str]], path: Path) -> None:
    """A sheet of log-mel frames, and all of its sounds one after the other, before and after."""
    chosen = [prompt for prompt in prompts if 1 <= len(prompt[0]) / RATE <= 4][:SHOWN]
    originals, texts = [samples for samples, _ in chosen], [text for _, text in chosen]
    decoded = [coder.decoded(coder.codes(samples)) for samples in originals]
    plot_reconstructions(coder.codec.drawn(originals), coder.codec.drawn(decoded), texts, path.with_suffix(".png"))
    for kind, items in (("original", originals), ("decoded", decoded)):
        sounds = np.concatenate([np.pad(s, (0, RATE // 2)) for s in items])
        path.with_name(f"{path.name}_{kind}.wav").write_bytes(sound_file(sounds, RATE))


def _speech(item: Item) -> Raw:
    return next(s for s in item.segments if isinstance(s, Raw) and s.modality == "speech")


if __name__ == "__main__":
    main()
