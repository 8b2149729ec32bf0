"""What a comparison says, in English and Chinese: the phrases of web/words.json."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

WEB = Path(__file__).parent / "web"
WORDS: dict[str, dict[str, str]] = json.loads((WEB / "words.json").read_text(encoding="utf-8"))


def english(note: Mapping[str, Any]) -> str:
    """`key` names the phrase; the other values stand in its {places}."""
    return WORDS["en"][note["key"]].format(**note)
