"""The ledger of a corpus, a JSON object: its laws, what it must hold at least, its table.

    {"train": SPLIT, "validation": SPLIT, "read": {"files", "documents", "bytes"},
     "dropped": {reason: {"documents", "bytes"}}, "removed": {step: bytes},
     "encodings": {name: files}, "contamination": {kind: {"documents", "bytes"}},
     "encoder": name, "validation_split": how, "blocks_hash": hash}

SPLIT has files, documents, bytes (UTF-8), characters, text_hash, tokens (without end of text),
eos_tokens, block_size, blocks, remainder_tokens and bytes_per_token. The remainder of training is
dropped; that of validation is its last, shorter block. text_hash is the sum of the documents' XXH3
(64 bits, of their UTF-8) modulo 2**64: the same for the same documents in any order, whatever cuts
them into tokens; against change, not against forgery.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from zhgpt.errors import InputError
from zhgpt.tally import Tally, merged

Ledger = dict[str, Any]

SPLITS = ("train", "validation")


def tally_of(seals: Sequence[Mapping[str, Any]]) -> Tally:
    """Of all sources: each is in the seal of the part that it ended in."""
    return merged(tally for seal in seals for tally in seal["tallies"].values())


def collected(seals: Sequence[Mapping[str, Any]], found: Mapping[str, Sequence]) -> Ledger:
    """What the seals of all parts say of reading and cleaning."""
    read, removed = tally_of(seals), Counter()
    documents, sizes = read.dropped_documents, read.dropped_bytes
    for seal in seals:
        removed.update(seal["removed"])
        documents.update({reason: drop[0] for reason, drop in seal["dropped"].items()})
        sizes.update({reason: drop[1] for reason, drop in seal["dropped"].items()})
    encodings = Counter(read.encodings.values())
    return {split: {"files": len(found[split])} for split in SPLITS} | {
        "read": {
            "files": sum(map(len, found.values())),
            "documents": read.documents,
            "bytes": read.bytes,
        },
        "dropped": {
            reason: {"documents": documents[reason], "bytes": sizes[reason]}
            for reason in sorted(documents)
        },
        "removed": dict(sorted(removed.items())),
        "encodings": dict(sorted(encodings.items())),
    }


def check_laws(ledger: Ledger) -> None:
    """Documents and bytes read = those kept + dropped + removed; all tokens, one end of text for
    every document among them, = tokens in blocks + one remainder for the split. If not, it is our
    fault.
    """
    for unit, removed in (("documents", 0), ("bytes", sum(ledger["removed"].values()))):
        gone = sum(drop[unit] for drop in ledger["dropped"].values()) + removed
        assert ledger["read"][unit] == sum(ledger[s][unit] for s in SPLITS) + gone, ledger
    assert all(ledger[s]["eos_tokens"] == ledger[s]["documents"] for s in SPLITS), ledger
    train, validation = (ledger[split] for split in SPLITS)
    in_blocks = train["blocks"] * train["block_size"] + train["remainder_tokens"]
    assert train["tokens"] + train["eos_tokens"] == in_blocks, ledger
    short = validation["remainder_tokens"] > 0
    in_blocks = (validation["blocks"] - short) * validation["block_size"]
    in_blocks += validation["remainder_tokens"]
    assert validation["tokens"] + validation["eos_tokens"] == in_blocks, ledger


def require_documents(ledger: Ledger) -> None:
    """InputError if a split has no text."""
    train, validation = (ledger[split]["documents"] for split in SPLITS)
    if ledger["validation_split"] == "validation_files":
        for split in SPLITS:
            if not ledger[split]["documents"]:
                raise InputError(f"{split}_files: no text in them ({_drops(ledger)}).")
    elif not train + validation:
        raise InputError(f"train_files: no text in them ({_drops(ledger)}).")
    elif not train or not validation:
        kept, none = ("training", "validation") if train else ("validation", "training")
        raise InputError(
            f"corpus: {train + validation:,} document(s), by {ledger['validation_split']}:\n"
            f"all of them are for {kept}, none is left for {none}.\n"
            "A .txt file is one document, or many with --document paragraph (or line).\n"
            f"Name validation_files, give more documents, or {'raise' if train else 'lower'}"
            " corpus.validation_fraction."
        )


def require_block(ledger: Ledger) -> None:
    """InputError if the training text does not fill a block."""
    train = ledger["train"]
    if not train["blocks"]:
        raise InputError(
            f"corpus: the training text has {train['remainder_tokens']:,} tokens, less than one"
            f" block of {train['block_size']:,}.\nGive more text, or a smaller corpus.block_size."
        )


def _drops(ledger: Ledger) -> str:
    parts = [
        f"{d['documents']:,} {reason}" if d["documents"] else f"{d['bytes']:,} bytes {reason}"
        for reason, d in ledger["dropped"].items()
    ]
    return ", ".join(parts) or "nothing dropped"


def ledger_table(ledger: Ledger) -> str:
    """What was read, kept and dropped, for people."""
    heads = ["files", "documents", "bytes", "characters", "tokens", "eos_tokens", "blocks"]
    heads += ["block_size", "remainder_tokens"]
    rows = [["corpus", *(h.removesuffix("_tokens") for h in heads), "bytes/token"]]
    for split in SPLITS:
        facts = ledger[split]
        cells = [f"{facts[h]:,}" for h in heads]
        rows.append([split, *cells, f"{facts['bytes_per_token']:.2f}"])
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["  ".join(c.rjust(w) for c, w in zip(row, widths, strict=True)) for row in rows]
    sizes = ledger["read"]
    read = f"read {sizes['documents']:,} documents, {sizes['bytes']:,} bytes of text"
    return "\n".join(
        [*lines, f"{read}; dropped: {_drops(ledger)}", f"validation: {ledger['validation_split']}"]
    )
