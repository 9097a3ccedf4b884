"""Small files of the tokenizers library, in the forms that released models have."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from momafuse.tokens.config import BPEConfig
from momafuse.tokens.names import code_name

TEXTS = [
    "penguin: animal, antarctica, bird. a short-legged flightless bird of cold southern regions",
    "The quick brown fox doesn't jump over 1,234 lazy dogs;\n\tit sleeps   under the tree.",
    "a red apple on a table, a green apple under the table, an apple tree behind the house",
    "Zwölf Boxkämpfer jagen Viktor quer über den großen Sylter Deich. 北京 日本語 \U0001f600",
] * 4
ALPHABET = pre_tokenizers.ByteLevel.alphabet()
SMALL = BPEConfig("bpe", "small", 300, 1.0)


def byte_level(specials: list[str], pieces: int = 400, *, ignore_merges: bool = False) -> dict[str, Any]:
    """As GPT-2's and Llama 3's: bytes as letters, specials behind the pieces."""
    made = Tokenizer(models.BPE(ignore_merges=ignore_merges))
    made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    made.post_processor = processors.ByteLevel(trim_offsets=False)
    made.train_from_iterator(
        TEXTS, trainers.BpeTrainer(vocab_size=pieces, initial_alphabet=ALPHABET, special_tokens=[], show_progress=False)
    )
    made.add_special_tokens(specials)
    return json.loads(made.to_str())


def llama_2() -> dict[str, Any]:
    """Specials 0..2, bytes from 3 on, then letters and merges; spaces are U+2581, and one is put before the text."""
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.Metaspace()
    trained.train_from_iterator(TEXTS[:3], trainers.BpeTrainer(vocab_size=200, special_tokens=[], show_progress=False))
    model = json.loads(trained.to_str())["model"]
    first = ["<unk>", "<s>", "</s>", *(f"<0x{b:02X}>" for b in range(256))]
    vocab = {name: i for i, name in enumerate([*first, *sorted(model["vocab"], key=model["vocab"].get)])}
    made = Tokenizer(
        models.BPE(vocab, [tuple(m) for m in model["merges"]], unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    )
    made.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    made.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    made.post_processor = processors.TemplateProcessing("<s> $A", "<s> $A <s> $B", [("<s>", 1)])
    made.add_special_tokens(["<unk>", "<s>", "</s>"])
    return json.loads(made.to_str())


def unigram() -> dict[str, Any]:
    made = Tokenizer(models.Unigram())
    made.pre_tokenizer, made.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    made.train_from_iterator(
        TEXTS,
        trainers.UnigramTrainer(
            vocab_size=120, unk_token="<unk>", special_tokens=["<pad>", "</s>", "<unk>"], show_progress=False
        ),
    )
    return json.loads(made.to_str())


def chameleon(seed: int = 0) -> tuple[dict[str, Any], list[int]]:
    """The released layout, its text aside, and the code that each of the ids from 4 on stands for: 65,536 ids."""
    codes = list(range(8192))
    random.Random(seed).shuffle(codes)
    text = byte_level([])["model"]
    names = ["<s>", "<pad>", "</s>", "<unk>", *(code_name("image", code) for code in codes), "<eoss>", "<racm3:break>"]
    names += [f"<reserved{n:05d}>" for n in range(8194, 8707)] + ["<image>"]
    vocab = {name: i for i, name in enumerate(names)}
    assert (vocab["<reserved08706>"], vocab["<image>"]) == (8710, 8711)
    vocab |= {name: 8712 + i for name, i in text["vocab"].items()}
    vocab |= {f"word{n}": len(vocab) + n for n in range(65_536 - len(vocab))}
    spec = byte_level([])
    spec["model"] |= {"vocab": vocab, "merges": text["merges"]}
    named = ["<s>", "<pad>", "</s>", "<unk>", "<reserved08706>", "<image>"]
    spec["added_tokens"] = [
        {
            "id": vocab[name],
            "content": name,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": True,
        }
        for name in named
    ]
    return spec, codes


def written(spec: dict[str, Any], path: Path) -> str:
    path.write_text(json.dumps(spec), encoding="utf-8")
    return str(path)
