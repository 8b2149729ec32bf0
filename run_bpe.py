"""Trains a tokenizer as a recipe says: python run_bpe.py recipes/bpe_32k.json

or compares some on the same text: python run_bpe.py --compare DIR DIR --files FILE
"""

import sys
import time
from collections.abc import Sequence
from pathlib import Path

from zhgpt import bpe_folder, bpe_text, bpe_train, command, recipe
from zhgpt.errors import FINISHED, exit_code

FLAGS = {
    "output_dir": command.Flag(str, "folder of the tokenizer; tokenizer/<name> unless given"),
    "overwrite": command.Flag(bool, "replace the folder if it exists"),
}


def run(argv: Sequence[str] | None) -> int:
    argv = sys.argv[1:] if argv is None else argv
    if "--compare" in argv:
        from zhgpt import bpe_compare  # here, because AutoTokenizer takes seconds to import

        return bpe_compare.run(argv)

    began = time.perf_counter()
    asked = command.read(argv, recipe.BpeRecipe, flags=FLAGS, description=__doc__)
    pins = asked.recipe
    folder = Path(asked.flags["output_dir"] or Path("tokenizer", asked.run_name))
    bpe_folder.require_free(folder, asked.flags["overwrite"])

    bpe_train.require_possible(pins.bpe)

    reading = bpe_text.Reading(pins, say)
    tokenizer, trained = bpe_train.train(reading, pins.bpe, say)
    for line in reading.tally.lines():
        say(line)
    facts = bpe_folder.facts(reading, tokenizer, asked, began) | {"training": trained}
    bpe_folder.save(tokenizer, folder, facts, asked.flags["overwrite"])
    entries = tokenizer.get_vocab_size()
    say(f"{folder}: {entries:,} entries from {reading.bytes / 1e6:.1f} MB in {facts['seconds']} s")
    return FINISHED


def say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    sys.exit(exit_code(run, None))
