"""A model's continuation of a prompt: drawn, decoded, and left where a run is told to go."""

import torch
from transformers import BatchEncoding, GenerationConfig

from zhgpt import leaving
from zhgpt.errors import Left
from zhgpt.recipe import SamplesSection


def continuations(model, tokenizer, section: SamplesSection) -> list[tuple[str, str]]:
    """(prompt, continuation) pairs; the global random state and the model's mode are kept.

    Prompt number i is drawn with seed + i: the same prompt twice is continued in two ways.
    """
    devices = [model.device] if model.device.type == "cuda" else []
    training = model.training
    model.eval()
    with torch.random.fork_rng(devices=devices), torch.no_grad():
        texts = []
        for number, prompt in enumerate(section.prompts):
            torch.manual_seed(section.seed + number)
            texts.append(_continue(model, tokenizer, prompt, section))
    model.train(training)
    return list(zip(section.prompts, texts, strict=True))


def _leave_if_asked(input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
    """A criterion that ends no text: asked after each token, it leaves where that is asked for."""
    if leaving.asked():
        raise Left(leaving.asked())
    return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)


def encoded(tokenizer, prompt: str) -> BatchEncoding:
    """As in training: the name of a special token in a text is text."""
    return tokenizer(prompt, return_tensors="pt", split_special_tokens=True)


def _continue(model, tokenizer, prompt: str, section: SamplesSection) -> str:
    inputs = encoded(tokenizer, prompt).to(model.device)
    length = inputs["input_ids"].shape[1]
    config = GenerationConfig(
        # Learnt positions end at n_positions: a longer text has no meaning for this model.
        max_new_tokens=min(section.max_new_tokens, model.config.n_positions - length),
        do_sample=True,
        temperature=section.temperature,
        top_k=section.top_k,
        top_p=section.top_p,
        repetition_penalty=section.repetition_penalty,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        suppress_tokens=[tokenizer.pad_token_id],  # padding is no text; an untrained model draws it
        use_cache=True,
    )
    output = model.generate(
        **inputs, generation_config=config, stopping_criteria=[_leave_if_asked]
    )[0, length:]
    # The last token may end inside a character.
    return tokenizer.decode(output, skip_special_tokens=True).rstrip("\ufffd")
