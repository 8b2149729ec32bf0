"""Training documents that are in validation too: found by hash, and near ones by signature."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa

from zhgpt import parts
from zhgpt.duplicates import VALUES, NearDuplicates
from zhgpt.parts import TRAIN, VALIDATION

EXACT, NEAR = "duplicate of validation", "near-duplicate of validation"


@dataclass
class Found:
    """`rows` has a mask (documents,) of each part: what of it is contaminated."""

    rows: list[np.ndarray] = field(default_factory=list)
    documents: dict[str, int] = field(default_factory=lambda: {EXACT: 0, NEAR: 0})
    bytes: dict[str, int] = field(default_factory=lambda: {EXACT: 0, NEAR: 0})
    first: tuple[int, np.ndarray] | None = None  # its source and its ids

    def add(self, reason: str, mask: np.ndarray, sizes: np.ndarray) -> None:
        self.documents[reason] += int(mask.sum())
        self.bytes[reason] += int(sizes[mask].sum())


def find(folder: Path, similarity: float) -> Found:
    """Training documents whose hash is one of validation's; below 1, also those whose signature
    tells of a Jaccard similarity of at least `similarity` to one of them."""
    found, hashes = Found(), _validation_hashes(folder)
    near = _near(folder, similarity)
    for table in parts.tables(folder, _columns(similarity) + ["input_ids", "source"]):
        training = table["split"].to_numpy() == TRAIN
        sizes = table["bytes"].to_numpy()
        exact = training & np.isin(table["hash"].to_numpy(), hashes)
        alike = near(table, training & ~exact)
        found.add(EXACT, exact, sizes)
        found.add(NEAR, alike, sizes)
        found.rows.append(exact | alike)
        _remember_first(found, table)
    return found


def _columns(similarity: float) -> list[str]:
    return ["split", "hash", "bytes"] + (["signature"] if similarity < 1 else [])


def _validation_hashes(folder: Path) -> np.ndarray:
    hashes = [
        table["hash"].to_numpy()[table["split"].to_numpy() == VALIDATION]
        for table in parts.tables(folder, ["split", "hash"])
    ]
    return np.unique(np.concatenate([np.empty(0, np.uint64), *hashes]))


def _near(folder: Path, similarity: float) -> Callable[[pa.Table, np.ndarray], np.ndarray]:
    """Which of the rows asked for are near a validation document: masks (documents,)."""
    if similarity == 1:
        return lambda table, asked: np.zeros(len(table), bool)
    known = _validation_signatures(folder, similarity)

    def near(table: pa.Table, asked: np.ndarray) -> np.ndarray:
        mask, marks = asked.copy(), signatures(table)
        mask[asked] = [known.find(marks[row]) is not None for row in np.flatnonzero(asked)]
        return mask

    return near


def _validation_signatures(folder: Path, similarity: float) -> NearDuplicates:
    marks = [
        signatures(table)[table["split"].to_numpy() == VALIDATION]
        for table in parts.tables(folder, ["split", "signature"])
    ]
    every = np.unique(np.concatenate([np.empty((0, VALUES), np.uint16), *marks]), axis=0)
    known = NearDuplicates(similarity)
    # All of them; `add` would leave out those that are near to each other.
    numbers = np.arange(len(every))
    known.state = {"signatures": every, "numbers": numbers, "calls": np.array(len(every))}
    return known


def signatures(table: pa.Table) -> np.ndarray:
    """(documents, 128) of the column `signature`."""
    flat = [chunk.flatten().to_numpy() for chunk in table["signature"].chunks]
    return np.concatenate(flat).reshape(len(table), -1)


def _remember_first(found: Found, table: pa.Table) -> None:
    hits = np.flatnonzero(found.rows[-1])
    if found.first is None and len(hits):
        row = table.slice(hits[0], 1)
        found.first = (row["source"][0].as_py(), row["input_ids"][0].values[:200].to_numpy())
