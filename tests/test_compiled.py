"""A compiled step: torch's causal kernel without a mask, and the losses of a step as written."""

import json

import pytest
import torch
from conftest import history
from transformers import GPT2Config, GPT2LMHeadModel

import run_clm
from zhgpt import allocator, attention, command, initial, recipe

CONFIG = dict(n_layer=1, n_head=2, n_embd=32, vocab_size=400, n_positions=32, bos_token_id=0)
CONFIG |= dict(eos_token_id=0, pad_token_id=1, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0)


@pytest.fixture
def pins(tiny_recipe):
    def read(*arguments: str, **changes):
        path = str(tiny_recipe(**changes))
        return command.read([path, *arguments], recipe.ClmRecipe, run_clm.SECTIONS).recipe

    return read


def attention_of(model, ids) -> list[dict]:
    """What the compiled graph hands to torch's attention."""
    found = []

    def look(graph, inputs):
        for node in graph.graph.nodes:
            if "scaled_dot_product_attention" in str(node.target):
                found.append(node.kwargs)
        return graph.forward

    torch._dynamo.reset()
    torch.compile(model, backend=look)(input_ids=ids, labels=ids, attention_mask=ids * 0 + 1)
    return found


def test_the_compiled_graph_has_the_causal_kernel_and_no_mask(pins):
    ids = torch.randint(2, 400, (2, 32))
    plain = GPT2LMHeadModel(GPT2Config(**CONFIG))
    plain.loss_type = "ForCausalLM"
    (kwargs,) = attention_of(plain, ids)
    assert kwargs["attn_mask"] is not None and kwargs["is_causal"] is False  # what is avoided
    model = initial.ready(GPT2LMHeadModel(GPT2Config(**CONFIG)), pins("--torch_compile", "true"))
    (kwargs,) = attention_of(model, ids)
    assert kwargs["attn_mask"] is None and kwargs["is_causal"] is True


@pytest.mark.parametrize(
    "arguments, changes, kept",
    [
        ([], {}, "sdpa"),
        (["--torch_compile_mode", "default"], {}, attention.CAUSAL),
        (["--torch_compile", "true"], {"corpus__document_mask": True}, "sdpa"),
        (["--torch_compile", "true"], {"model__attn_implementation": "eager"}, "eager"),
    ],
    ids=["not compiled", "compiled", "documents apart", "another attention"],
)
def test_where_a_mask_is_needed_or_asked_for_it_stays(pins, arguments, changes, kept):
    asked = pins(*arguments, **changes)
    kind = asked.model.get("attn_implementation", "sdpa")
    model = GPT2LMHeadModel(GPT2Config(**CONFIG, attn_implementation=kind))
    assert initial.ready(model, asked).config._attn_implementation == kept


def test_losses_and_evaluations_are_those_of_the_step_as_written(
    tiny_recipe, tmp_path, monkeypatch
):
    """The last validation block is padded; the name of the kernel is not in the saved model."""
    # The library keeps the back end in the environment, where the next run would find it.
    monkeypatch.setenv("ACCELERATE_DYNAMO_BACKEND", "no")
    path = str(tiny_recipe())
    for folder, more in (("written", []), ("compiled", ["--torch_compile_backend", "aot_eager"])):
        assert run_clm.run([path, "--output_dir", str(tmp_path / folder), *more]) == 0
    for key in ("loss", "grad_norm", "eval_loss", "eval_bits_per_byte", "eval_accuracy"):
        found, expected = (history(tmp_path / run, key) for run in ("compiled", "written"))
        assert found == pytest.approx(expected, abs=1e-5 if key != "grad_norm" else 1e-4)
    # Prompts, and with the cache one token at a time, are attended to as before.
    said = [(tmp_path / run / "samples.jsonl").read_text() for run in ("compiled", "written")]
    assert json.loads(said[0].splitlines()[0]) == json.loads(said[1].splitlines()[0])
    again = GPT2LMHeadModel.from_pretrained(tmp_path / "compiled")
    assert again.config._attn_implementation == "sdpa"


def test_the_allocator_is_left_alone_where_somebody_has_set_it(monkeypatch):
    for name in allocator._OPINIONS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(allocator.platform, "libc_ver", lambda: ("", ""))
    assert not allocator.keep_freed()
    monkeypatch.undo()
    monkeypatch.setenv("MALLOC_TOP_PAD_", "0")
    assert not allocator.keep_freed()
