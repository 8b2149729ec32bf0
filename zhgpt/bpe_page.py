"""A page that shows passages as tokenizers cut them, side by side, in one file without requests."""

import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

from zhgpt import bpe_table, page_file

_WHAT = "tokenizers compared"
_COLOURS = 5


class Passage(NamedTuple):
    """`cuts` has, for each tokenizer in their order, its pieces as candidate.Piece has them."""

    source: str
    text: str
    cuts: Sequence[Sequence[Any]]


def require_free(path: Path, overwrite: bool) -> None:
    """InputError unless a page may and can be written there; nothing is touched."""
    page_file.require_free(path, _WHAT, overwrite)


def write(
    path: Path, facts: Mapping[str, Any], passages: Sequence[Passage], overwrite: bool
) -> None:
    """Complete under its name or not there at all."""
    page_file.write(path, _WHAT, page(facts, passages), overwrite)


def page(facts: Mapping[str, Any], passages: Sequence[Passage]) -> str:
    """`facts` as for bpe_table. Whatever stands in a text is shown: it is escaped, and besides no
    script or style runs but the two here.
    """
    names = [one["folder"] for one in facts["tokenizers"]]
    sources = bpe_table.by_source(facts)
    return _PAGE.format(
        beginning=page_file.beginning(_WHAT),
        policy=f"default-src 'none'; style-src {page_file.sources(_STYLE)};"
        f" script-src {page_file.sources(_SCRIPT)}",
        style=_STYLE,
        script=_SCRIPT,
        overall=_table(bpe_table.overall(facts), 1),
        sources=f"<details><summary>By source</summary>{_table(sources, 2)}</details>"
        if sources
        else "",
        overlap=_table(shares, 1) if (shares := bpe_table.overlap(facts)) else "",
        notes="".join(f"<li>{escape(line)}" for line in _notes(facts)),
        passages="".join(_passage(passage, names) for passage in passages),
    )


def _notes(facts: Mapping[str, Any]) -> Iterable[str]:
    yield from (f"{name}: {meaning}" for name, meaning in bpe_table.MEANING.items())
    yield from bpe_table.changes(facts)


def _table(rows: Sequence[Sequence[str]], names: int) -> str:
    """The first row has the heads, the first `names` columns are no figures."""

    def line(row: Sequence[str], tag: str) -> str:
        cells = (
            f"<{tag}{' class=name' if column < names else ''}>{escape(cell)}"
            for column, cell in enumerate(row)
        )
        return f"<tr>{''.join(cells)}"

    body = "".join(line(row, "td") for row in rows[1:])
    return f"<div class=scroll><table><thead>{line(rows[0], 'th')}<tbody>{body}</table></div>\n"


def _passage(passage: Passage, names: Sequence[str]) -> str:
    size = len(passage.text.encode("utf-8"))
    cuts = (_cut(name, cut, size) for name, cut in zip(names, passage.cuts, strict=True))
    source = escape(bpe_table.one_line(passage.source, bpe_table.LINE))
    return f"<section><h2>{source}</h2><div class=cuts>{''.join(cuts)}</div></section>\n"


def _cut(name: str, pieces: Sequence[Any], size: int) -> str:
    tokens = sum(piece.id is not None for piece in pieces)
    spans, number = [], 0
    for piece in pieces:
        spans.append(_token(piece, number % _COLOURS))
        number += piece.id is not None
    ratio = f", {size / tokens:.2f} bytes each" if tokens else ""
    return (
        f"<div class=cut><h3>{escape(name)} <small>{tokens} tokens{ratio}</small></h3>"
        f'<p lang="zh">{"".join(spans)}</div>'
    )


def _token(piece: Any, colour: int) -> str:
    hint = f"part of {piece.text}" if piece.kind == "part" and piece.text else _HINTS[piece.kind]
    if piece.id is not None:
        values = (f"id {piece.id}", piece.bytes.hex(" ").upper(), hint)
        hint = " · ".join(value for value in values if value)
    kind = "" if piece.kind == "whole" else f" {piece.kind}"
    colour = "" if piece.id is None else f" k{colour}"
    return f'<span class="t{colour}{kind}" data-t="{escape(hint)}">{_shown(piece)}</span>'


_HINTS = {
    "whole": "",
    "part": "part of a character",
    "unknown": "unknown: stands for any text",
    "added": "stands for nothing in the text",
    "lost": "no token has it",
}


def _shown(piece: Any) -> str:
    if piece.kind != "part":
        return "".join(map(_character, piece.text, range(len(piece.text))))
    shown = piece.bytes.decode("utf-8", "surrogateescape") or "?"
    return "".join(
        f"<small>{ord(c) & 0xFF:02X}</small>" if "\udc80" <= c <= "\udcff" else _character(c, i)
        for i, c in enumerate(shown)
    )


def _character(character: str, place: int) -> str:
    """As one sees it; what is invisible has a sign or its code point."""
    if character in _SIGNS:
        return _SIGNS[character]
    category = unicodedata.category(character)
    if category[0] in "CZ":
        return f"<small>{ord(character):04X}</small>"
    if category in ("Mn", "Me") and not place:
        return f"\u25cc{character}"  # a dotted circle to stand on
    return escape(character)


_SIGNS = {
    " ": "<small>\u00b7</small>",
    "\u3000": "<small>\u25a1</small>",
    "\t": "<small>\u2192</small>",
    "\n": "<small>\u21b5</small><br>",
}

_STYLE = """
:root { color-scheme: light dark; --back: #fff; --text: #1b1d20; --dim: #5f6670; --line: #dcdfe3 }
@media (prefers-color-scheme: dark) {
  :root { --back: #15171a; --text: #e8eaed; --dim: #9aa1ab; --line: #363a40 }
}
body { margin: 0 auto; max-width: 96rem; padding: 1rem; background: var(--back);
  color: var(--text); font: 16px/1.5 system-ui, sans-serif; overflow-wrap: anywhere }
h1 { font-size: 1.4rem } h2 { font-size: 1rem; margin: 2rem 0 .5rem }
h3 { font-size: .9rem; margin: 0 }
h3 small, ul { color: var(--dim); font-weight: normal } ul { font-size: .85rem }
.scroll { overflow-x: auto; margin-bottom: 1rem }
table { border-collapse: collapse; font-size: .85rem; white-space: nowrap;
  font-variant-numeric: tabular-nums }
th, td { padding: .25rem .7rem; border-bottom: 1px solid var(--line); text-align: right }
.name { text-align: left }
.cuts { display: grid; gap: 1rem 2rem;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 18rem), 1fr)) }
.cut p { margin: .4rem 0; line-height: 2 }
.t { padding: .15em .1em; border-radius: .25em; cursor: default;
  -webkit-box-decoration-break: clone; box-decoration-break: clone }
.t small { font-size: .7em; color: var(--dim) }
.t:hover { outline: 2px solid var(--text) }
.k0 { background: hsl(212 90% 55% / .27) } .k1 { background: hsl(36 95% 50% / .3) }
.k2 { background: hsl(150 70% 42% / .27) } .k3 { background: hsl(330 80% 60% / .25) }
.k4 { background: hsl(265 75% 62% / .28) }
.part { outline: 1px dashed var(--dim); outline-offset: -1px }
.unknown { outline: 2px solid #d93636; outline-offset: -1px }
.added { opacity: .55 } .lost { text-decoration: line-through; color: #d93636 }
#tip { position: fixed; z-index: 1; padding: .2rem .6rem; border-radius: .4rem; font-size: .85rem;
  background: var(--text); color: var(--back); pointer-events: none; max-width: 90vw }
"""
_SCRIPT = """
const tip = document.getElementById("tip");
function show(event) {
  const token = event.target.closest("[data-t]");
  tip.hidden = !token;
  if (!token) return;
  tip.textContent = token.dataset.t;
  const place = token.getClientRects()[0];
  const above = place.top - tip.offsetHeight - 4;
  tip.style.left = Math.max(4, Math.min(place.left, innerWidth - tip.offsetWidth - 4)) + "px";
  tip.style.top = (above > 4 ? above : place.bottom + 4) + "px";
}
for (const kind of ["pointerover", "click"]) document.addEventListener(kind, show);
addEventListener("scroll", () => { tip.hidden = true; }, { passive: true });
"""
_PAGE = """{beginning}<html lang="en"><meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Tokenizers compared</title>
<style>{style}</style>
<h1>Tokenizers compared</h1>
{overall}{overlap}{sources}<ul>{notes}</ul>
<p>Each colour is a token; hover over it or tap it for its id and bytes. Dashed: part of a
character, shown as bytes. Red: unknown. Struck out: no token has it.</p>
{passages}<div id=tip hidden></div>
<script>{script}</script>
</html>
"""
