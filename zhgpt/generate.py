"""Lets a model speak: python -m zhgpt.generate RUN [--prompt TEXT] [--checkpoint N]

RUN is a run's folder, finished or in progress, or any with a GPT-2 of Hugging Face. Prompts come
from --prompt, from --prompts FILE or from a pipe, one a line; without any of them one is asked for
in the terminal: Ctrl-C stops a continuation, Ctrl-D ends. Settings that are not given are those of
the run's recipe, so that the same prompts and seed give the text of its samples.jsonl again.
"""

import argparse
import contextlib
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from zhgpt import check, machine, weights
from zhgpt.errors import FINISHED, InputError, exit_code
from zhgpt.recipe import SamplesSection
from zhgpt.report import json_line, printable
from zhgpt.sampling import END, Continuation, encoded, require_room

SETTINGS = {
    "max_new_tokens": (int, "tokens of a continuation at most; none is drawn behind n_positions"),
    "temperature": (float, "0 takes the likeliest token each time"),
    "top_k": (int, "draw from so many of the likeliest tokens; 0: from all"),
    "top_p": (float, "draw from the likeliest tokens that make up this share"),
    "repetition_penalty": (float, "above 1: what stands in the text already becomes less likely"),
    "seed": (int, "of the first text; the next one has the next seed"),
}


@dataclass
class Speaker:
    """A model with its settings; `number` counts the texts, whose seeds follow one another."""

    found: weights.Weights
    model: Any
    tokenizer: Any
    settings: SamplesSection
    samples: int = 1
    number: int = 0

    def continuations(self, prompt: str) -> Iterator[Continuation]:
        for _ in range(self.samples):
            seed = self.settings.seed + self.number
            self.number += 1
            yield Continuation(self.model, self.tokenizer, prompt, self.settings, seed)

    def require(self, prompt: str) -> None:
        """InputError for a prompt that cannot be continued."""
        try:
            prompt.encode("utf-8")
        except UnicodeEncodeError:
            raise InputError(f"prompt {prompt!a}: not UTF-8.") from None
        length = encoded(self.tokenizer, prompt).shape[1]
        require_room(prompt, length, self.model.config.n_positions)


def speaker(folder: Path, number: int | None, say: Callable[[str], None], **given: Any) -> Speaker:
    """The weights of a folder with the settings of its recipe, but for those that are `given`."""
    found = weights.find(folder, number, say)
    settings = replace(found.settings, **{k: v for k, v in given.items() if v is not None})
    require_settings(settings)
    model, tokenizer = weights.load(found.folder)
    return Speaker(found, model, tokenizer, settings)


def require_settings(settings: SamplesSection) -> None:
    for name in SETTINGS:
        value = getattr(settings, name)
        if name == "temperature" and value == 0:
            continue
        finite = check.is_finite(value)
        fault = check.range_fault(f"samples.{name}", value) if finite else "expected a number"
        if fault:
            raise InputError(f"--{name} {value}: {fault}.")


def write(speaker: Speaker, prompts: Iterable[str], as_json: bool) -> None:
    """Every prompt with its continuations, as they are drawn; a line of JSON has a whole one."""
    between = ""
    for prompt in prompts:
        speaker.require(prompt)
        for continuation in speaker.continuations(prompt):
            if as_json:
                print(json_line(_row(speaker, continuation)), flush=True)
            else:
                print(end=between, flush=True)
                _speak(continuation)
                between = "\n"


def _row(speaker: Speaker, continuation: Continuation) -> dict[str, Any]:
    """As a line of samples.jsonl, and why the text ended."""
    text = "".join(continuation)
    settings = {name: getattr(speaker.settings, name) for name in SETTINGS}
    return {
        "step": speaker.found.step,
        "tokens": speaker.found.tokens,
        "prompt": continuation.prompt,
        "text": text,
        "settings": settings | {"seed": continuation.seed},
        "ended": continuation.ended,
    }


def _speak(continuation: Continuation) -> None:
    """Prompt and continuation, character by character; control characters are not obeyed."""
    print(printable(continuation.prompt), end="", flush=True)
    try:
        for piece in continuation:
            print(printable(piece), end="", flush=True)
    finally:
        print(flush=True)
    if continuation.ended != END:
        _say(f"[ended by {continuation.ended}]")


def converse(speaker: Speaker, as_json: bool) -> None:
    """Asks for prompts until Ctrl-D; an empty one begins a text. Faults are said, and no end."""
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401  input() then knows arrows and earlier lines
    while True:
        try:
            prompt = input("> ")
            write(speaker, [prompt], as_json)
        except KeyboardInterrupt:
            print()
        except (InputError, UnicodeDecodeError) as error:
            _say(str(error))
        except EOFError:
            print()
            return


def lines(name: str, raw: Iterable[bytes]) -> Iterator[str]:
    """Prompts, one a line; empty lines are none. InputError names a line that is not UTF-8."""
    found = False
    for number, line in enumerate(raw, 1):
        try:
            prompt = line.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
        except UnicodeDecodeError as error:
            raise InputError(f"{name}:{number}: not UTF-8 ({error.reason}).") from None
        if prompt.strip():
            found = True
            yield prompt
    if not found:
        raise InputError(f"{name}: no prompt in it; write one on each line.")


def _prompts(options: argparse.Namespace, speaker: Speaker) -> Iterable[str]:
    """Those of a pipe as they come; of others, one that cannot be continued is said first."""
    if options.prompt is None and options.prompts is None:
        return lines("standard input", sys.stdin.buffer)
    prompts = options.prompt or _file(options.prompts)
    for prompt in prompts:
        speaker.require(prompt)
    return prompts


def _file(path: Path) -> list[str]:
    try:
        return list(lines(str(path), path.read_bytes().splitlines(keepends=True)))
    except OSError as error:
        raise InputError(f"--prompts {path}: {error.strerror}.") from None


def _samples(number: int, settings: SamplesSection) -> int:
    if number < 1:
        raise InputError(f"--samples {number}: expected 1 or more.")
    if number > 1 and settings.temperature == 0:
        raise InputError("--samples: with temperature 0 all texts of a prompt are the same.")
    return number


def _say(line: str) -> None:
    print(printable(line), file=sys.stderr, flush=True)  # standard output is the text alone


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m zhgpt.generate",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("run", type=Path, help="folder of a run, of its checkpoint or of a model")
    parser.add_argument("--checkpoint", type=int, metavar="N", help="of step N, not the newest")
    one_source = parser.add_mutually_exclusive_group()
    one_source.add_argument("--prompt", action="append", help="a text to continue; may be repeated")
    one_source.add_argument("--prompts", type=Path, metavar="FILE", help="one on each line")
    parser.add_argument("--samples", type=int, default=1, metavar="K", help="texts for each prompt")
    parser.add_argument("--json", action="store_true", help="a JSON object for each text, a line")
    for name, (kind, text) in SETTINGS.items():
        parser.add_argument(f"--{name}", type=kind, help=text)
    return parser.parse_args(argv)


def run(argv: Sequence[str] | None) -> int:
    options = _options(argv)
    machine.prepare()
    given = {name: getattr(options, name) for name in SETTINGS}
    ready = speaker(options.run, options.checkpoint, _say, **given)
    ready.samples = _samples(options.samples, ready.settings)
    settings = asdict(ready.settings)
    shown = "  ".join(f"{name} {settings[name]}" for name in SETTINGS)
    _say(f"speaks: {ready.found}, on {machine.describe()['device']}; {shown}")
    if options.prompt is None and options.prompts is None and sys.stdin.isatty():
        converse(ready, options.json)
    else:
        write(ready, _prompts(options, ready), options.json)
    return FINISHED


if __name__ == "__main__":
    sys.exit(exit_code(run, None))
