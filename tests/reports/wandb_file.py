"""Reads the .wandb file of an offline run: LevelDB's log format with W&B's own file header, records of W&B's protobuf.

https://github.com/google/leveldb/blob/main/doc/log_format.md: blocks of 32 KiB, each a row of (checksum 4, length 2, kind 1,
data); kinds 1 whole, 2 first, 3 middle, 4 last; fewer than 7 bytes at a block's end are padding.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

from wandb.proto.wandb_internal_pb2 import Record

BLOCK = 32 * 1024
HEADER = 7


def records(path: Path) -> Iterator[Record]:
    data = path.read_bytes()
    assert data[:4] == b":W&B"
    place, parts = HEADER, b""
    while place + HEADER <= len(data):
        left = BLOCK - place % BLOCK
        if left < HEADER:
            place += left
            continue
        _, length, kind = struct.unpack("<IHB", data[place : place + HEADER])
        if kind == 0:  # the rest of the file was never written
            return
        parts += data[place + HEADER : place + HEADER + length]
        place += HEADER + length
        if kind in (1, 4):
            record = Record()
            record.ParseFromString(parts)
            parts = b""
            yield record
