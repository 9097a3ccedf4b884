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
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch

from momafuse.data.batch import Batch
from momafuse.data.faults import fault_of
from momafuse.data.mixture import Ints
from momafuse.data.packing import PackPlan
from momafuse.data.stages import StagedPlan
from momafuse.errors import UserError
from momafuse.tokens.vocabulary import Vocabulary

if TYPE_CHECKING:
    from momafuse.data.corpus import Split

T = TypeVar("T")
STEPS_AHEAD = 4  # steps that the background thread keeps ready
BEYOND = 255  # the modality of ids beyond the vocabulary, which is in no budget
POLL_SECONDS = 0.1  # how soon the background thread sees that nobody listens any more


class Loader:
    """Reads batches of one split."""

    def __init__(
        self,
        split: Split,
        vocabulary: Vocabulary,
        plan: PackPlan | StagedPlan,
        budget: tuple[int, ...],
        answers_only: bool = False,
    ) -> None:
        """`budget` is the plan's: tokens of each modality, in the vocabulary's order, in every sequence.

        Raises UserError where `answers_only` is asked of a corpus whose training split holds nothing that is given.
        """
        if plan.budget != budget:
            raise ValueError(f"budget={budget}, but the plan was made for {plan.budget}")
        self._split, self._plan, self._budget = split, plan, budget
        self._pad = vocabulary.specials.pad
        self._modality = np.append(vocabulary.modality_of_ids(), np.uint8(BEYOND))
        self._tokens = np.asarray(split.tokens)  # still mapped; a memmap's own indexing costs more than it reads
        self._position = np.arange(sum(budget), dtype=np.int32)
        self._edges: Ints | None = None  # of the runs of given tokens: begin, end, begin, end, ...
        if answers_only:
            if split.given is None:
                raise UserError(
                    "objective.answers_only=true: this corpus marks nothing as given, so that everything would be learnt; "
                    "set it to false, or train on prompts with answers (data=conversations)"
                )
            self._edges = split.given.reshape(-1)

    def batch(self, sequences: Sequence[int]) -> Batch:
        """The sequences of these global numbers, in this order. UserError where the corpus holds ids that it should not."""
        starts, lengths, document = self._pieces(sequences)
        shape = len(sequences), sum(self._budget)
        ends = lengths.cumsum()
        begins = np.zeros(len(lengths) + 1, np.int32)
        begins[1:] = ends
        total = int(ends[-1])
        assert total == shape[0] * shape[1], "the plan fills every sequence exactly"
        at = np.arange(total)
        at += (starts - begins[:-1]).repeat(lengths)  # in the corpus
        ids = self._tokens.take(at)
        tokens = ids.astype(np.int64)
        modality = self._modality.take(tokens, mode="clip")
        position = np.empty(shape, np.int32)
        position[:] = self._position
        return Batch(
            tokens=torch.from_numpy(tokens.reshape(shape)),
            targets=torch.from_numpy(self._targets(tokens, ids, at, ends).reshape(shape)),
            modality=torch.from_numpy(modality.reshape(shape)),
            document=torch.from_numpy(document.repeat(lengths).reshape(shape)),
            position=torch.from_numpy(position),
            sequence=torch.from_numpy(np.array(sequences, np.int64)),
            begins=torch.from_numpy(begins),
            order=torch.from_numpy(self._order(modality, at, shape)),
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

    def _pieces(self, sequences: Sequence[int]) -> tuple[Ints, Ints, npt.NDArray[np.int32]]:
        """Of every piece: its first token in the corpus, its length, and its number within its sequence."""
        parts, done, rising = [], 0, isinstance(sequences, range) and sequences.step == 1
        while done < len(sequences):
            first = sequences[done]
            epoch, number, place = self._plan.find(first)
            window = self._plan.window(epoch, number)
            more = min(len(sequences) - done, len(window.first) - 1 - place)
            count = more if rising else 1
            while count < more and sequences[done + count] == first + count:  # neighbours of a window are read together
                count += 1
            at = slice(int(window.first[place]), int(window.first[place + count]))
            parts.append((window.begin[at], window.stop[at] - window.start[at], window.number[at]))
            done += count
        if len(parts) == 1:
            return parts[0]
        begins, lengths, numbers = zip(*parts, strict=True)
        return np.concatenate(begins), np.concatenate(lengths), np.concatenate(numbers)

    def _targets(self, tokens: Ints, ids: npt.NDArray[Any], at: Ints, ends: Ints) -> Ints:
        targets = np.empty_like(tokens)
        targets[:-1] = tokens[1:]
        targets[ends - 1] = -1
        pad = ids == self._pad
        if pad.any():
            targets[:-1][pad[1:]] = -1
        if self._edges is not None:  # inside of a run lies what has an odd number of edges up to it
            targets[np.searchsorted(self._edges, at + 1, side="right") % 2 == 1] = -1
        return targets

    def _order(self, modality: npt.NDArray[np.uint8], at: Ints, shape: tuple[int, int]) -> Ints:
        """Row numbers sorted by modality. UserError where a sequence does not hold its budget."""
        count, length = shape
        order, done, every = np.empty(len(modality), np.int64), 0, list(range(count))
        for number, tokens in enumerate(self._budget):
            rows = (modality == number).nonzero()[0]
            exact = len(rows) == count * tokens
            if exact and tokens and number:  # text is what is left of each; rows ascend, so the first and last of each tell
                exact = all((ends // length).tolist() == every for ends in (rows[::tokens], rows[tokens - 1 :: tokens]))
            if not exact:
                raise fault_of(self._split, at)
            order[done : done + len(rows)] = rows
            done += len(rows)
        return order


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
