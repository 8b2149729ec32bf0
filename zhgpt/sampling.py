"""A model's continuation of a prompt: drawn token by token, told in whole characters."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
from transformers import (
    LogitsProcessorList,
    RepetitionPenaltyLogitsProcessor,
    SuppressTokensLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from zhgpt import leaving
from zhgpt.errors import InputError, Left
from zhgpt.recipe import SamplesSection

# Why a continuation ended.
END, LENGTH, POSITIONS, NO_NUMBERS = "end of text", "max_new_tokens", "n_positions", "not a number"

Choose = Callable[[torch.Tensor, torch.Tensor], int | None]


def continuations(model, tokenizer, section: SamplesSection) -> list[tuple[str, str]]:
    """(prompt, continuation) pairs; the global random state and the model's mode are kept.

    Prompt number i is drawn with seed + i: the same prompt twice is continued in two ways.
    """
    training = model.training
    model.eval()
    try:
        seeded = enumerate(section.prompts, section.seed)
        return [(p, _whole(Continuation(model, tokenizer, p, section, seed))) for seed, p in seeded]
    finally:
        model.train(training)


def _whole(continuation: "Continuation") -> str:
    """All of a text; Left in the middle of it where that is asked for."""
    pieces = []
    for piece in continuation:
        pieces.append(piece)
        if leaving.asked():
            raise Left(leaving.asked())
    return "".join(pieces)


@dataclass
class Continuation:
    """Iterated over once, it gives a text in pieces of whole characters; then `ended` says why.

    Tokens are drawn as `generate` of transformers draws them under the same seed, but from a random
    state of their own; temperature 0 takes the likeliest token. Learnt positions end at
    n_positions, and the text with them: what lies behind has no meaning for this model. The model
    is in evaluation mode. InputError for a prompt that leaves no position.
    """

    model: torch.nn.Module
    tokenizer: object
    prompt: str
    settings: SamplesSection
    seed: int
    tokens: list[int] = field(default_factory=list)
    ended: str = ""

    def __iter__(self) -> Iterator[str]:
        told = 0
        for token in self._drawn():
            self.tokens.append(token)
            text = self.tokenizer.decode(
                self.tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False
            )
            # The last token may end inside a character; its other bytes may still come.
            text = text.rstrip("\ufffd")
            if len(text) > told:
                yield text[told:]
                told = len(text)

    def _drawn(self) -> Iterator[int]:
        ids = encoded(self.tokenizer, self.prompt).to(self.model.device)
        room = self.model.config.n_positions - ids.shape[1]
        require_room(self.prompt, ids.shape[1], self.model.config.n_positions)
        choose, cache, fresh = self._chooser(), None, ids
        for _ in range(min(room, self.settings.max_new_tokens)):
            with torch.no_grad():
                output = self.model(fresh, past_key_values=cache, use_cache=True, logits_to_keep=1)
            cache = output.past_key_values
            token = choose(ids, output.logits[:, -1].float())
            if token is None or token == self._end:
                self.ended = NO_NUMBERS if token is None else END
                return
            yield token
            fresh = torch.tensor([[token]], device=ids.device)
            ids = torch.cat([ids, fresh], dim=1)
        self.ended = LENGTH if self.settings.max_new_tokens <= room else POSITIONS

    @property
    def _end(self) -> int | None:
        known = self.tokenizer.eos_token_id
        return self.model.config.eos_token_id if known is None else known

    def _chooser(self) -> Choose:
        """(ids, scores of shape (1, entries)) to the next token; None where the scores are NaN."""
        processors, greedy = self._processors(), self.settings.temperature == 0
        generator = torch.Generator(self.model.device).manual_seed(self.seed)

        def choose(ids: torch.Tensor, scores: torch.Tensor) -> int | None:
            chances = processors(ids, scores).softmax(-1)
            if chances.isnan().any():
                return None
            if greedy:
                return int(chances.argmax())
            return int(torch.multinomial(chances, 1, generator=generator))

        return choose

    def _processors(self) -> LogitsProcessorList:
        """In the order of `generate`."""
        settings, padding = self.settings, self.tokenizer.pad_token_id
        made = LogitsProcessorList()
        if settings.repetition_penalty != 1:
            made.append(RepetitionPenaltyLogitsProcessor(settings.repetition_penalty))
        if padding not in (None, self._end):  # padding is no text; an untrained model draws it
            made.append(SuppressTokensLogitsProcessor([padding], device=self.model.device))
        if settings.temperature == 0:
            return made
        made.append(TemperatureLogitsWarper(float(settings.temperature)))
        if settings.top_k:
            made.append(TopKLogitsWarper(settings.top_k))
        if settings.top_p < 1:
            made.append(TopPLogitsWarper(settings.top_p))
        return made


def encoded(tokenizer, prompt: str) -> torch.Tensor:
    """(1, length) ids. As in training: a special token's name in a text is text, and a text begins
    behind the end of another; so that token is all there is of an empty prompt.
    """
    inputs = tokenizer(
        prompt, return_tensors="pt", split_special_tokens=True, add_special_tokens=False
    )
    ids = inputs["input_ids"].long()
    if ids.shape[1]:
        return ids
    first = tokenizer.eos_token_id
    if first is None:
        raise InputError("the prompt is empty, and this tokenizer has no end of text to begin at.")
    return torch.tensor([[first]])


def require_room(prompt: str, length: int, positions: int) -> None:
    """InputError for a prompt that leaves no position for a continuation."""
    if length >= positions:
        raise InputError(
            f"prompt {prompt[:20]!r}... has {length:,} tokens, and the model has {positions:,}"
            " positions (n_positions), which are all that it can look at. Shorten the prompt."
        )
