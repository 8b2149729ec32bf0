"""Village stories, the text of recipes/village.json: python -m zhgpt.village writes it anew.

The hand-written material lies in recipes/village/: people.json, world.json (crafts, seasons,
places, animals, openings) and plots.json. A text in it may hold [one|another|] alternatives, nested
at will, and {slots}: {a} {b} {c} are the child, the adult with a craft and the old person of a
story, {ap} {bp} {cp} their pronouns, {shop} {tool} {work} {thing} belong to the adult's craft. A
plot is a list of beats, each with several wordings. A beat whose first wording begins with ? may be
left out. A wording that begins with #fire belongs to that branch of the plot: the first beat that
knows a branch decides for or against it, and later beats tell only what fits.

Laws: the same seed writes the same bytes; no plot with its cast of three occurs in both parts; a
validation sentence is worded anew while training has it already.
"""

import argparse
import json
import random
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from zhgpt.errors import FINISHED, exit_code

FOLDER = Path(__file__).resolve().parent.parent / "recipes" / "village"
SEED, TRAIN_STORIES, VALIDATION_STORIES = 7, 2900, 100
ATTEMPTS = 100
LEFT_OUT = 0.2  # share of optional beats

PRONOUNS = {"男": "他", "女": "她"}
LONG = 12  # characters from which a sentence counts as repeated

Story = dict[str, str]


class Material:
    """The hand-written files, read once."""

    def __init__(self, folder: Path = FOLDER):
        self.people = _load(folder / "people.json")
        self.world = _load(folder / "world.json")
        self.plots = _load(folder / "plots.json")


def _load(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def expand(template: str, slots: dict[str, str], draw: random.Random) -> str:
    """One reading of a template: alternatives drawn from the inside out, then the slots filled."""
    before = None
    while template != before:
        before = template
        template = _INNERMOST.sub(lambda match: draw.choice(match[1].split("|")), template)
        template = _SLOT.sub(lambda match: slots[match[1]], template)
    return template


_INNERMOST, _SLOT = re.compile(r"\[([^\[\]]*)\]"), re.compile(r"\{(\w+)\}")


def sentences(text: str) -> list[str]:
    """Cut after the marks that end a sentence, closing quotation marks kept with it."""
    return [s for s in re.findall(r"[^。！？\n]*[。！？]+[’”]*|[^。！？\n]+", text) if s]


def long_sentences(text: str) -> list[str]:
    return [s for s in sentences(text) if len(s) >= LONG]


def marked(wording: str) -> tuple[str, str]:
    """The branch that a wording belongs to ("" for all) and its text."""
    mark, text = _MARKED.fullmatch(wording).groups()
    return mark or "", text


_MARKED = re.compile(r"\??(?:#(\w+) )?(.*)")


def fits(mark: str, told: set[str], known: set[str]) -> bool:
    """Whether a branch has been told, or nothing has been decided about it yet."""
    return mark in told or mark not in known


def _can(adult: str, plot: dict) -> bool:
    """Whether the plot is for the adult's craft; a plot without `crafts` is for all."""
    craft = adult.split()[2]
    return craft in plot.get("crafts", [craft])


class Writer:
    """Draws stories; `known` are the sentences that it avoids."""

    def __init__(self, material: Material, draw: random.Random, known: Sequence[str] = ()):
        self.material, self.draw, self.known = material, draw, set(known)

    def cast(self, plot: dict) -> tuple[str, str, str]:
        people = self.material.people
        able = [adult for adult in people["adult"] if _can(adult, plot)]
        return tuple(map(self.draw.choice, (people["child"], able, people["old"])))

    def story(self, plot: dict, child: str, adult: str, old: str) -> Story:
        slots = self._slots(plot, child, adult, old)
        parts = [self._worded(self._openings(plot), slots)[1]]
        told, known = {""}, {""}
        for beat in plot["beats"]:
            if beat[0].startswith("?") and self.draw.random() < LEFT_OUT:
                continue
            wordings = [(mark, text) for mark, text in map(marked, beat) if fits(mark, told, known)]
            mark, text = self._worded(wordings, slots)
            parts.append(text)
            told.add(mark)
            known.update(mark for mark, _ in map(marked, beat))
        cast = "、".join(slots[role] for role in "abc")
        return {"plot": plot["id"], "cast": cast, "text": _paragraphs(parts, self.draw)}

    def _openings(self, plot: dict) -> list[tuple[str, str]]:
        """Those about one of the cast or about the village; `open` of the plot may limit them."""
        openings = self.material.world["openings"]
        about = self.draw.choice(plot.get("open") or list(openings))
        return [("", text) for text in openings[about]]

    def _slots(self, plot: dict, child: str, adult: str, old: str) -> dict[str, str]:
        world, draw = self.material.world, self.draw
        name_b, sex_b, craft = adult.split()
        (name_a, sex_a), (name_c, sex_c) = child.split(), old.split()
        sign = draw.choice(plot.get("seasons") or list(world["seasons"]))
        season = world["seasons"][sign]
        animal = draw.choice(plot.get("animals") or list(world["animals"]))
        weather = plot.get("weather") or season["weather"]
        places = draw.sample(world["places"], 3)
        return {
            **world["phrases"],
            **{"a": name_a, "b": name_b, "c": name_c},
            **{"ap": PRONOUNS[sex_a], "bp": PRONOUNS[sex_b], "cp": PRONOUNS[sex_c]},
            **world["crafts"][craft],
            **{"sn": sign, "field": season["field"], "plant": season["plant"]},
            **{"joy": season["joy"], "weather": draw.choice(weather)},
            **{"an": animal, "am": world["animals"][animal]},
            **dict(zip(("place", "place2", "place3"), places, strict=True)),
            "time": draw.choice(world["times"]),
        }

    def _worded(self, wordings: list[tuple[str, str]], slots: dict[str, str]) -> tuple[str, str]:
        """A mark and its text, drawn again while a long sentence of it is known."""
        for _ in range(ATTEMPTS):
            mark, wording = self.draw.choice(wordings)
            text = expand(wording, slots, self.draw)
            if not self.known.intersection(long_sentences(text)):
                break
        return mark, text


def _paragraphs(parts: list[str], draw: random.Random) -> str:
    """Two to four paragraphs; a beat is never torn apart."""
    breaks = set(draw.sample(range(1, len(parts)), draw.randint(1, 3)))
    return "".join(("\n" if i in breaks else "") + part for i, part in enumerate(parts))


def write(material: Material, seed: int, train: int, validation: int) -> dict[str, list[Story]]:
    """The stories of both parts, the plots in turn; no plot occurs twice with one cast."""
    draw = random.Random(seed)
    writer, taken = Writer(material, draw), set()
    parts: dict[str, list[Story]] = {"train": [], "validation": []}
    for part, count in (("train", train), ("validation", validation)):
        while len(parts[part]) < count:
            plot = material.plots[len(parts[part]) % len(material.plots)]
            cast = writer.cast(plot)
            if (plot["id"], *cast) not in taken:
                taken.add((plot["id"], *cast))
                parts[part].append(writer.story(plot, *cast))
        draw.shuffle(parts[part])
        known = [s for story in parts["train"] for s in long_sentences(story["text"])]
        writer = Writer(material, draw, known)
    return parts


def lines(stories: list[Story]) -> str:
    return "".join(json.dumps(story, ensure_ascii=False) + "\n" for story in stories)


def run(argv: Sequence[str] | None) -> int:
    parser = argparse.ArgumentParser(prog="python -m zhgpt.village")
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--stories", type=int, default=TRAIN_STORIES, help="of training")
    parser.add_argument("--output_dir", type=Path, default=FOLDER)
    options = parser.parse_args(argv)
    options.output_dir.mkdir(parents=True, exist_ok=True)
    for part, stories in write(
        Material(), options.seed, options.stories, VALIDATION_STORIES
    ).items():
        (options.output_dir / f"{part}.jsonl").write_text(lines(stories), encoding="utf-8")
    return FINISHED


if __name__ == "__main__":
    sys.exit(exit_code(run, None))
