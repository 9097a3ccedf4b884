"""Turns global sequence numbers into batches: reads the pieces of the pack plan from the memory-mapped corpus.

Step s of a run covers the global sequences s*G .. (s+1)*G-1; rank r of W takes the contiguous slice of G/W that begins
at s*G + r*G/W. So the state of the data is the step number, and a run goes on at any world size or micro-batch with the
same global sequences.

A target is the next token of the same piece of a document; -1 where a piece ends, and for `pad`. The first token of a
document is never one. With `answers_only`, given tokens (prompts; Chameleon, arXiv 2405.09818, fine-tunes so) are no
targets either: they stay inputs, and what has no given segment is learnt whole. Does not decide what is in a sequence
(packing.py), and moves nothing to a device.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Generator, Iterator, Sequence
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import torch

from momafuse.data.batch import Batch
from momafuse.data.mixture import Ints
from momafuse.data.packing import PackPlan
from momafuse.errors import UserError
from momafuse.tokens.vocabulary import Vocabulary

if TYPE_CHECKING:
    from momafuse.data.corpus import Split

T = TypeVar("T")
STEPS_AHEAD = 4  # steps that the background thread keeps ready
POLL_SECONDS = 0.1  # how soon the background thread sees that nobody listens any more


class Loader:
    """Reads batches of one split."""

    def __init__(
        self, split: Split, vocabulary: Vocabulary, plan: PackPlan, budget: tuple[int, ...], answers_only: bool = False
    ) -> None:
        """`budget` is the plan's: tokens of each modality, in the vocabulary's order, in every sequence.

        Raises UserError where `answers_only` is asked of a corpus whose training split holds nothing that is given.
        """
        if plan.budget != budget:
            raise ValueError(f"budget={budget}, but the plan was made for {plan.budget}")
        self._split, self._plan, self._budget = split, plan, budget
        self._size, self._pad = vocabulary.size, vocabulary.specials.pad
        self._modality = vocabulary.modality_of_ids()
        self._edges: Ints | None = None  # of the runs of given tokens: begin, end, begin, end, ...
        if answers_only:
            if split.given is None:
                raise UserError(
                    "objective.answers_only=true: this corpus marks nothing as given, so that everything would be learnt; "
                    "set it to false, or train on prompts with answers (data=conversations)"
                )
            self._edges = split.given.reshape(-1)

    def batch(self, sequences: Sequence[int]) -> Batch:
        """The sequences of these global numbers, in this order. ValueError where the corpus holds ids that it should not."""
        starts, lengths, rows = self._ranges(sequences)
        shape = len(sequences), sum(self._budget)
        ends = np.cumsum(lengths)
        begins = ends - lengths
        total = int(ends[-1])
        assert total == shape[0] * shape[1], "the plan fills every sequence exactly"
        at = np.arange(total) + np.repeat(starts - begins, lengths)  # in the corpus
        tokens = self._split.tokens[at].astype(np.int64)
        if int(tokens.max()) >= self._size:
            row = int(np.flatnonzero(tokens >= self._size)[0])
            where = f"sequence {sequences[row // shape[1]]}"
            raise ValueError(f"corpus: id {tokens[row]} in {where} is not below the vocabulary's {self._size}")
        targets = np.append(tokens[1:], -1)
        targets[ends - 1] = -1
        targets[targets == self._pad] = -1
        if self._edges is not None:  # inside of a run lies what has an odd number of edges up to it
            targets[np.searchsorted(self._edges, at + 1, side="right") % 2 == 1] = -1
        document = np.repeat(np.arange(len(lengths)) - np.searchsorted(rows, rows), lengths)
        modality = self._modality[tokens]
        self._check(modality.reshape(shape))
        position = np.broadcast_to(np.arange(shape[1], dtype=np.int32), shape)
        return Batch(
            tokens=torch.from_numpy(tokens.reshape(shape)),
            targets=torch.from_numpy(targets.reshape(shape)),
            modality=torch.from_numpy(modality.reshape(shape)),
            document=torch.from_numpy(document.astype(np.int32).reshape(shape)),
            position=torch.from_numpy(position.copy()),
            sequence=torch.tensor(list(sequences), dtype=torch.int64),
            begins=torch.from_numpy(np.append(begins, total).astype(np.int32)),
            order=torch.from_numpy(np.argsort(modality, kind="stable")),
            budget=self._budget,
        )

    def stream(
        self,
        step: int,
        *,
        global_batch: int,
        micro_batch: int,
        rank: int = 0,
        world: int = 1,
        origin: int = 0,
        pinned: bool = False,
    ) -> Generator[list[Batch], None, None]:
        """From optimizer step `step` on: the micro-batches of this rank, a list a step, without end.

        Step 0 begins with the global sequence `origin`. `pinned`: for a GPU (Batch.pinned). `micro_batch` must divide a rank's
        share (config/shares.py).

        A background thread keeps `STEPS_AHEAD` steps ready; it ends when the iterator is closed or dropped, and what it
        raises is raised here.
        """
        if global_batch % (world * micro_batch):
            raise ValueError(f"global_batch={global_batch} is no multiple of {world} x {micro_batch}")
        share = global_batch // world

        def steps() -> Iterator[list[Batch]]:
            number = step
            while True:
                first = origin + number * global_batch + rank * share
                batches = [self.batch(range(at, at + micro_batch)) for at in range(first, first + share, micro_batch)]
                yield [b.pinned() for b in batches] if pinned else batches
                number += 1

        return ahead(steps())

    def _ranges(self, sequences: Sequence[int]) -> tuple[Ints, Ints, Ints]:
        """Of every piece: its first token in the corpus, its length, and its place in `sequences`."""
        starts, lengths, counts = [], [], []
        for sequence in sequences:
            epoch, number, place = self._plan.find(sequence)
            plan = self._plan.window(epoch, number)
            low, high = plan.first[place], plan.first[place + 1]
            starts.append(plan.base[low:high] + plan.start[low:high])
            lengths.append(plan.stop[low:high] - plan.start[low:high])
            counts.append(high - low)
        return np.concatenate(starts), np.concatenate(lengths), np.repeat(np.arange(len(counts)), counts)

    def _check(self, modality: np.ndarray[tuple[int, int], np.dtype[np.uint8]]) -> None:
        for number, tokens in enumerate(self._budget):
            if not ((modality == number).sum(axis=1) == tokens).all():
                raise ValueError(f"corpus: a sequence without its {tokens} tokens of modality {number}; prepare it again")


def ahead(steps: Iterator[T]) -> Generator[T, None, None]:
    """The same items, made in a background thread, which ends when the iterator is closed or dropped."""
    ready: queue.Queue[T | BaseException] = queue.Queue(STEPS_AHEAD)
    stopped = threading.Event()

    def put(item: T | BaseException) -> None:
        while not stopped.is_set():
            try:
                ready.put(item, timeout=POLL_SECONDS)
                return
            except queue.Full:
                continue

    def work() -> None:
        try:
            while not stopped.is_set():
                put(next(steps))
        except BaseException as error:  # handed over, whatever it is
            put(error)

    thread = threading.Thread(target=work, name="momafuse-loader", daemon=True)

    def listen() -> Generator[T, None, None]:
        thread.start()
        try:
            while True:
                item = ready.get()
                if isinstance(item, BaseException):
                    raise item
                yield item
        finally:
            stopped.set()
            thread.join()

    return listen()
