"""Where a corpus comes from: files, or a data set that `datasets` loads by its name."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import datasets

from zhgpt import files, text
from zhgpt.errors import InputError
from zhgpt.recipe import CorpusSection, TextSection

Say = Callable[[str], None]


@dataclass(frozen=True)
class Source:
    """Documents in a fixed order. `digest` stands for all their content, `size` is in bytes."""

    name: str
    size: int
    digest: str
    documents: Callable[[text.Tally], Iterator[str]]
    position: Callable[[], int]  # bytes of `size` that are read by now
    unchanged: Callable[[], bool]


def find(section: CorpusSection, say: Say) -> dict[str, list[Path]]:
    """The files of both splits; InputError unless they are there and differ."""
    paths: dict[str, list[Path]] = {"train": [], "validation": []}
    if not section.dataset:
        paths["train"] = files.find_files(section.train_files, "train_files", say)
    if section.validation_files:
        paths["validation"] = files.find_files(section.validation_files, "validation_files", say)
    both = {p.resolve() for p in paths["train"]} & {p.resolve() for p in paths["validation"]}
    if both:
        raise InputError(
            f"validation_files: {min(both)} is one of the train_files too; a model is not"
            " evaluated on what it has learnt. Name each file once."
        )
    return paths


def open_all(section: CorpusSection, say: Say) -> dict[str, list[Source]]:
    """The sources of both splits, their content read once for its digest."""
    sources = {split: _of_files(paths, section) for split, paths in find(section, say).items()}
    if section.dataset:
        sources["train"].append(_of_dataset(section.dataset, section))
    return sources


def open_training(section: TextSection, say: Say) -> list[Source]:
    """The same of the text that is learnt from alone."""
    if section.dataset:
        return [_of_dataset(section.dataset, section)]
    return _of_files(files.find_files(section.train_files, "train_files", say), section)


def _of_files(paths: Sequence[Path], section: TextSection) -> list[Source]:
    # The hash leaves the interpreter free: two cores read two files.
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(lambda path: _of_file(path, section), paths))


def _of_file(path: Path, section: TextSection) -> Source:
    before = _stamp(path)
    # How a file is read depends on its ending too.
    digest = f"{files.ending(path)} {path.suffix.lower()} {text.file_hash(path)}"
    return Source(
        name=str(path),
        size=before[0],
        digest=digest,
        documents=lambda tally: text.documents(path, section, tally),
        position=lambda: files.position(path),
        unchanged=lambda: _stamp(path) == before,
    )


def _stamp(path: Path) -> tuple[int, int, int]:
    try:
        facts = path.stat()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}).") from None
    return facts.st_size, facts.st_mtime_ns, facts.st_ino


def _of_dataset(dataset: Mapping, section: TextSection) -> Source:
    name = "/".join(str(part) for part in dataset.values() if part)
    rows = _Rows(_load(dataset, name))
    return Source(
        name=name,
        size=rows.size,
        digest=f"dataset {rows.loaded._fingerprint}",
        documents=lambda tally: text.of_batches(
            rows.batches(), rows.loaded.data.schema, name, section, tally
        ),
        position=rows.position,
        unchanged=lambda: True,  # `datasets` has it in a cache of its own
    )


class _Rows:
    """The rows of a data set, and how far they have been read."""

    def __init__(self, loaded: datasets.Dataset):
        self.loaded, self.read = loaded, 0
        self.size = loaded.dataset_size or loaded.data.nbytes

    def batches(self) -> Iterator:
        self.read = 0
        for table in self.loaded.with_format("arrow").iter(batch_size=1000):
            yield from table.to_batches()
            self.read += len(table)

    def position(self) -> int:
        return self.size * self.read // max(len(self.loaded), 1)


def _load(dataset: Mapping, name: str) -> datasets.Dataset:
    """InputError for what is not there, needs the network, or is no text to train on."""
    try:
        rows = datasets.load_dataset(**{"split": "train"} | dict(dataset))
    except (ConnectionError, OSError) as error:
        raise InputError(
            f"corpus.dataset: {name} cannot be reached or is not there ({_first_line(error)}).\n"
            "Check its name and the network (HF_ENDPOINT names a mirror), or download it where"
            " there is one\n(hf download --repo-type dataset NAME --local-dir FOLDER) and write"
            ' {"path": "FOLDER"},\nor name its files: --train_files FOLDER'
        ) from None
    except datasets.exceptions.DatasetsError as error:  # its own words name no cause
        reason = _first_line(error.__cause__ or error)
        raise InputError(f"corpus.dataset: {name}: cannot be read ({reason}).") from None
    except (ValueError, TypeError, RuntimeError) as error:
        raise InputError(f"corpus.dataset: {name}: {_first_line(error)}") from None
    return rows


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__
