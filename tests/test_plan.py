"""The arithmetic of a run, by tables and against the library's own model."""

import pytest
from transformers import GPT2Config, GPT2LMHeadModel

from zhgpt import plan
from zhgpt.errors import InputError
from zhgpt.recipe import ClmRecipe, CorpusSection, SamplesSection


def config(**changes):
    small = dict(n_layer=3, n_embd=48, n_head=4, vocab_size=301, n_positions=32)
    return GPT2Config(**(small | changes), bos_token_id=0, eos_token_id=0)


@pytest.mark.parametrize("changes", [{}, {"n_inner": 100}, {"tie_word_embeddings": False}])
def test_parameters_are_those_of_the_model(changes):
    assert plan.count_parameters(config(**changes)) == sum(
        p.numel() for p in GPT2LMHeadModel(config(**changes)).parameters()
    )


def pins(tokens_per_step=128, block_size=32, **training_arguments):
    """A recipe; without a micro-batch of its own it has 2 blocks."""
    return ClmRecipe(
        name="x",
        purpose="y",
        tokenizer="z",
        corpus=CorpusSection(train_files=("t",), block_size=block_size),
        model={},
        tokens_per_step=tokens_per_step,
        training_arguments={"per_device_train_batch_size": 2} | training_arguments,
        samples=SamplesSection(prompts=()),
    )


@pytest.mark.parametrize(
    "tokens, micro_batch, processes, accumulation",
    [(1024, 8, 1, 4), (1024, 8, 2, 2), (1024, 32, 1, 1), (1024, 1, 4, 8)],
)
def test_accumulation_fills_the_step_exactly(tokens, micro_batch, processes, accumulation):
    asked = pins(tokens, per_device_train_batch_size=micro_batch)
    assert plan.split_step(asked, processes) == plan.Batches(micro_batch, accumulation)


def test_a_step_that_does_not_divide_names_the_nearest_that_do():
    with pytest.raises(InputError) as error:
        plan.split_step(pins(1000, per_device_train_batch_size=8), 1)
    for part in ("tokens_per_step", "1000", "256", "768 or 1024"):
        assert part in str(error.value)


def test_a_step_smaller_than_one_micro_batch_names_the_smallest():
    with pytest.raises(InputError, match="Write 256"):
        plan.split_step(pins(100, per_device_train_batch_size=8), 1)


def make(blocks, **training_arguments):
    return plan.make(pins(**training_arguments), config(), processes=1, blocks=blocks)


def test_steps_are_whole_and_what_is_left_over_is_counted():
    made = make(blocks=11, num_train_epochs=3)
    assert (made.blocks_per_step, made.max_steps, made.unused_blocks) == (4, 8, 1)
    assert made.tokens == 8 * 128
    assert made.epochs == pytest.approx(32 / 11)


def test_max_steps_goes_before_epochs():
    made = make(blocks=11, num_train_epochs=3, max_steps=20)
    assert (made.max_steps, made.unused_blocks, made.tokens) == (20, 0, 20 * 128)


def test_a_corpus_smaller_than_one_step_is_refused():
    with pytest.raises(InputError, match="3 blocks in all epochs"):
        make(blocks=3, num_train_epochs=1)


def test_a_recipe_states_how_long_it_trains():
    with pytest.raises(InputError, match="num_train_epochs: missing"):
        make(blocks=11)


def test_flops_per_token_of_the_124m_shape():
    """6 x 123.6M + 12 x 12 x 768 x 1024 for GPT-2 small with its own vocabulary."""
    small = config(n_layer=12, n_embd=768, n_head=12, vocab_size=50257, n_positions=1024)
    per_token = plan.flops_per_token(plan.count_parameters(small), small)
    assert per_token == 6 * 124_439_808 + 113_246_208
