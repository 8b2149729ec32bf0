"""A model that speaks: the texts of training again, whole characters, any GPT-2, bad input."""

import io
import json
import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from conftest import ROOT
from transformers import AutoTokenizer, GenerationConfig, GPT2Config, GPT2LMHeadModel

import run_clm
from zhgpt import checkpoint, generate, sampling, session, weights
from zhgpt.errors import InputError
from zhgpt.recipe import SamplesSection
from zhgpt.sampling import Continuation

PROMPT = "村民们都很高兴"


@pytest.fixture(scope="module")
def template(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("spoken") / "run"


@pytest.fixture
def spoken(template, tiny_recipe, tmp_path) -> Path:
    """A finished run of six steps, with checkpoints at 3 and 6; the folder may be spoilt."""
    if not template.exists():
        recipe = tiny_recipe(samples__prompts=[PROMPT, PROMPT, "阿福"])
        assert run_clm.run([str(recipe), "--output_dir", str(template)]) == 0
    return shutil.copytree(template, tmp_path / "run")


@pytest.fixture
def loaded(spoken) -> tuple[GPT2LMHeadModel, AutoTokenizer]:
    return weights.load(spoken)


def unfinished(folder: Path) -> Path:
    """As the run looked before its last step was evaluated."""
    session.write(folder, session.read(folder) | {"status": "running", "metrics": {}})
    for name in ("config.json", "model.safetensors"):
        (folder / name).unlink()
    return folder


def rows(capsys, *argv: str) -> list[dict]:
    capsys.readouterr()
    assert generate.run([*map(str, argv), "--json"]) == 0
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def sampled(folder: Path, step: int) -> list[dict]:
    lines = (folder / "samples.jsonl").read_text(encoding="utf-8").splitlines()
    return [row for row in map(json.loads, lines) if row["step"] == step]


def test_the_samples_of_training_are_spoken_again(spoken, capsys):
    prompts = [word for row in sampled(spoken, 6) for word in ("--prompt", row["prompt"])]
    for step, place in [(6, []), (3, ["--checkpoint", "3"])]:
        again = rows(capsys, spoken, *prompts, *place)
        assert [{k: v for k, v in row.items() if k != "ended"} for row in again] == sampled(
            spoken, step
        )
    assert sampled(spoken, 3) != sampled(spoken, 6)


@pytest.mark.parametrize(
    "changes",
    [{}, {"top_k": 0, "top_p": 1.0, "temperature": 1.3}, {"repetition_penalty": 1.5}],
    ids=["usual", "all entries", "penalty"],
)
def test_tokens_are_those_of_the_library(loaded, changes):
    model, tokenizer = loaded
    settings = SamplesSection(prompts=(), max_new_tokens=20, **changes)
    ids = sampling.encoded(tokenizer, PROMPT)
    config = GenerationConfig(
        do_sample=True,
        max_new_tokens=min(20, 32 - ids.shape[1]),
        temperature=settings.temperature,
        top_k=settings.top_k,
        top_p=settings.top_p,
        repetition_penalty=settings.repetition_penalty,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        suppress_tokens=[tokenizer.pad_token_id],
    )
    for seed in range(3):
        torch.manual_seed(seed)
        theirs = model.generate(ids, attention_mask=torch.ones_like(ids), generation_config=config)
        ours = Continuation(model, tokenizer, PROMPT, settings, seed)
        assert (
            "".join(ours) and theirs[0, ids.shape[1] :].tolist()[: len(ours.tokens)] == ours.tokens
        )


def test_temperature_zero_takes_the_likeliest(loaded):
    model, tokenizer = loaded
    settings = SamplesSection(prompts=(), temperature=0.0, max_new_tokens=5)
    ours = [Continuation(model, tokenizer, PROMPT, settings, seed) for seed in (1, 2)]
    assert "".join(ours[0]) == "".join(ours[1])
    ids = sampling.encoded(tokenizer, PROMPT)
    with torch.no_grad():
        scores = model(ids).logits[0, -1]
    scores[tokenizer.pad_token_id] = -torch.inf
    assert ours[0].tokens[0] == int(scores.argmax())


class Parrot(torch.nn.Module):
    """Says the tokens that it is given, one after the other, whatever it is asked."""

    device = torch.device("cpu")

    def __init__(self, ids: list[int], positions: int = 99):
        super().__init__()
        self.ids = ids
        self.config = GPT2Config(n_positions=positions)

    def forward(self, ids, past_key_values, **settings):
        place = past_key_values or 0
        scores = torch.full((1, 1, 400), -1e4)
        scores[..., self.ids[place]] = 1e4
        return type("Output", (), {"logits": scores, "past_key_values": place + 1})


def said(tokenizer, ids: list[int], **changes) -> tuple[list[str], str]:
    settings = SamplesSection(**{"prompts": (), "max_new_tokens": len(ids)} | changes)
    one = Continuation(Parrot(ids), tokenizer, PROMPT, settings, 0)
    return list(one), one.ended


def byte_ids(tokenizer, raw: bytes) -> list[int]:
    from zhgpt.bpe import token_bytes

    table = token_bytes(tokenizer.backend_tokenizer)
    return [table.index(bytes([byte])) for byte in raw]


def test_characters_come_whole_and_halves_are_never_shown(loaded):
    tokenizer = loaded[1]
    pieces, _ = said(tokenizer, byte_ids(tokenizer, "福a🐑羊".encode()))
    assert pieces == ["福", "a", "🐑", "羊"]
    assert said(tokenizer, byte_ids(tokenizer, "福羊".encode()[:-1]))[0] == ["福"]
    # Bytes that are of no character have a sign, once it is certain that they are of none.
    assert said(tokenizer, byte_ids(tokenizer, b"a\xe7\xa6b"))[0] == ["a", "\ufffdb"]


def test_why_a_text_ended_is_told(loaded):
    model, tokenizer = loaded
    a = byte_ids(tokenizer, b"a")
    assert said(tokenizer, [*a, tokenizer.eos_token_id, *a]) == (["a"], "end of text")
    assert said(tokenizer, a * 3) == (["a"] * 3, "max_new_tokens")
    settings = SamplesSection(prompts=(), max_new_tokens=99)
    short = Continuation(Parrot(a * 99, 20), tokenizer, "a" * 15, settings, 0)
    room = 20 - sampling.encoded(tokenizer, "a" * 15).shape[1]
    assert ("".join(short), short.ended) == ("a" * room, "n_positions")
    model.transformer.ln_f.weight.data.fill_(float("nan"))
    broken = Continuation(model, tokenizer, PROMPT, settings, 0)
    assert ("".join(broken), broken.ended) == ("", "not a number")


def test_an_empty_prompt_begins_a_text(spoken, loaded, capsys):
    assert sampling.encoded(loaded[1], "").tolist() == [[loaded[1].eos_token_id]]
    (row,) = rows(capsys, spoken, "--prompt", "")
    assert row["prompt"] == "" and row["text"]


def test_a_run_in_progress_speaks_and_is_left_as_it_is(spoken, capsys):
    unfinished(spoken)
    (spoken / ".checkpoint-9.partial").mkdir()
    state = spoken / "checkpoint-6" / "optimizer.pt"
    state.write_bytes(state.read_bytes()[:-1])
    before = {path: path.stat().st_mtime_ns for path in spoken.rglob("*")}
    capsys.readouterr()
    assert generate.run([str(spoken), "--prompt", PROMPT]) == 0
    out, err = capsys.readouterr()
    assert out == PROMPT + sampled(spoken, 3)[0]["text"] + "\n"
    assert "checkpoint-6 is passed over: optimizer.pt has" in err
    assert "checkpoint-3 (step 3, 768 tokens)" in err
    assert {path: path.stat().st_mtime_ns for path in spoken.rglob("*")} == before


def test_a_run_with_a_damaged_record_still_speaks(spoken, capsys):
    (spoken / "run.json").write_text("{")
    assert generate.run([str(spoken), "--prompt", PROMPT]) == 0
    err = capsys.readouterr().err
    assert "damaged" in err and "checkpoint-6" in err


def other_model(folder: Path, spoken: Path, **changes) -> GPT2LMHeadModel:
    """A folder as anybody may have one: no record, weights of another form, no padding."""
    torch.manual_seed(0)
    facts = {"vocab_size": 400, "n_positions": 32, "n_embd": 32, "n_layer": 1, "n_head": 2}
    model = GPT2LMHeadModel(GPT2Config(**facts | {"eos_token_id": 0} | changes))
    model.save_pretrained(folder)
    shutil.copy(spoken / "tokenizer.json", folder)
    facts = {"tokenizer_class": "PreTrainedTokenizerFast"}
    (folder / "tokenizer_config.json").write_text(json.dumps(facts))
    return model


def test_any_gpt2_folder_speaks(spoken, tmp_path, capsys):
    other_model(tmp_path / "other", spoken)
    (row,) = rows(capsys, tmp_path / "other", "--prompt", PROMPT, "--max_new_tokens", "9")
    assert row["step"] is None and row["text"] and row["settings"]["temperature"] == 0.8


def test_weights_that_are_no_safetensors_are_read_as_data_only(spoken, tmp_path, capsys):
    folder = tmp_path / "other"
    model = other_model(folder, spoken)
    kept = rows(capsys, folder, "--prompt", PROMPT)
    (folder / "model.safetensors").unlink()
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    assert rows(capsys, folder, "--prompt", PROMPT) == kept

    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "executed"),)

    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Evil(), protocol=2))
    with pytest.raises(InputError, match="cannot be loaded"):
        generate.run([str(folder), "--prompt", PROMPT])
    assert not (tmp_path / "executed").exists()


def test_code_of_a_folder_is_not_executed(spoken, tmp_path):
    folder = tmp_path / "other"
    other_model(folder, spoken)
    (folder / "code.py").write_text(f"import os; os.mkdir({str(tmp_path / 'executed')!r})\n")
    for name, entry in [("config.json", "AutoConfig"), ("tokenizer_config.json", "AutoTokenizer")]:
        facts = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps(facts | {"auto_map": {entry: "code.Evil"}}))
    try:
        generate.run([str(folder), "--prompt", PROMPT])
    except InputError:
        pass
    assert not (tmp_path / "executed").exists()


def test_control_characters_are_shown_and_not_obeyed(loaded, monkeypatch, capsys):
    model, tokenizer = loaded
    ids = byte_ids(tokenizer, "福\x1b[2J\u202e羊".encode())
    found = weights.Weights(Path("x"), SamplesSection(prompts=()))
    settings = SamplesSection(prompts=(), max_new_tokens=len(ids))
    one = generate.Speaker(found, Parrot(ids), tokenizer, settings)
    generate.write(one, ["\x1b阿"], as_json=False)
    assert capsys.readouterr().out == "\ufffd阿福\ufffd[2J\ufffd羊\n"
    generate.write(one, ["\x1b阿"], as_json=True)
    line = capsys.readouterr().out
    assert "\x1b" not in line and "\u202e" not in line
    assert json.loads(line)["text"] == "福\x1b[2J\u202e羊"  # nothing of it is lost


def test_prompts_come_from_a_file_or_a_pipe(spoken, tmp_path, monkeypatch, capsys):
    raw = f"\ufeff{PROMPT}\r\n\n阿福\n".encode()
    (tmp_path / "prompts.txt").write_bytes(raw)
    by_file = rows(capsys, spoken, "--prompts", tmp_path / "prompts.txt", "--samples", 2)
    assert [row["prompt"] for row in by_file] == [PROMPT, PROMPT, "阿福", "阿福"]
    assert [row["settings"]["seed"] for row in by_file] == [0, 1, 2, 3]
    assert len({row["text"] for row in by_file}) == 4
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(raw)))
    assert rows(capsys, spoken, "--samples", 2) == by_file


def test_the_terminal_is_asked_until_ctrl_d(spoken, monkeypatch, capsys):
    """A fault is said, Ctrl-C stops one text only, and the next one is another."""
    answers = iter([PROMPT, "长" * 99, KeyboardInterrupt, PROMPT, EOFError])

    def answer(sign: str) -> str:
        given = next(answers)
        if isinstance(given, str):
            return given
        raise given

    interrupted = iter([True, False])
    original = Continuation._drawn

    def drawn(self) -> Iterator[int]:
        for number, token in enumerate(original(self)):
            if number == 3 and next(interrupted):
                raise KeyboardInterrupt
            yield token

    monkeypatch.setattr(Continuation, "_drawn", drawn)
    monkeypatch.setattr("builtins.input", answer)
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    assert generate.run([str(spoken)]) == 0
    out, err = capsys.readouterr()
    assert out.count(PROMPT) == 2 and "32 positions" in err
    assert out.endswith("\n" + PROMPT + sampled(spoken, 6)[1]["text"] + "\n\n")


@pytest.mark.slow
def test_nobody_reads_any_more(spoken):
    """A pipe that is closed, as after `| head`, is no fault."""
    command = [sys.executable, "-m", "zhgpt.generate", str(spoken), "--samples", "50"]
    command += ["--prompt", PROMPT, "--json"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        process.stdout.readline()
        process.stdout.close()
        err = process.stderr.read()
    assert "Traceback" not in err and process.returncode == 75


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-9])


def not_gpt2(folder: Path) -> None:
    facts = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(facts | {"model_type": "llama"}))


def no_checkpoint(folder: Path) -> None:
    unfinished(folder)
    for path in folder.glob("checkpoint-*"):
        shutil.rmtree(path)


def missing_weight(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    kept = load_file(folder / "model.safetensors")
    del kept["transformer.ln_f.bias"]
    save_file(kept, folder / "model.safetensors", {"format": "pt"})


def longer_tokenizer(folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens(["村民们"])
    tokenizer.save_pretrained(folder)


SPOILT = {
    "no such folder": lambda f: shutil.rmtree(f),
    "neither run.json nor config.json": lambda f: [
        (f / "run.json").unlink(),
        (f / "config.json").unlink(),
        [shutil.rmtree(path) for path in f.glob("checkpoint-*")],
    ],
    "no whole checkpoint yet": no_checkpoint,
    "this is 'llama'": not_gpt2,
    "config.json: missing or damaged": lambda f: (f / "config.json").write_text("{"),
    "no tokenizer": lambda f: (f / "tokenizer.json").unlink(),
    "cannot be loaded": lambda f: cut(f / "model.safetensors"),
    "or tokenizer cannot be loaded": lambda f: cut(f / "tokenizer.json"),
    "weights are missing, transformer.ln_f.bias": missing_weight,
    "do not belong together": longer_tokenizer,
}


@pytest.mark.parametrize("message", SPOILT)
def test_a_folder_that_cannot_speak_is_refused(spoken, message, capsys):
    SPOILT[message](spoken)
    with pytest.raises(InputError, match=message) as error:
        generate.run([str(spoken), "--prompt", PROMPT])
    assert str(spoken) in str(error.value)


REFUSED = {
    "has no checkpoint 4; there are: 3, 6": ["--checkpoint", "4"],
    "--temperature -1.0": ["--temperature", "-1"],
    "--temperature nan": ["--temperature", "nan"],
    "--top_k -1": ["--top_k", "-1"],
    "--top_p 1.5": ["--top_p", "1.5"],
    "--repetition_penalty 0.5": ["--repetition_penalty", "0.5"],
    "--max_new_tokens 0": ["--max_new_tokens", "0"],
    "--seed -1": ["--seed", "-1"],
    "--samples 0": ["--samples", "0"],
    "all texts of a prompt are the same": ["--samples", "2", "--temperature", "0"],
    "tokens, and the model has 32 positions": ["--prompt", "长" * 99],
    r"prompt '\\udcff': not UTF-8": ["--prompt", "\udcff"],
}


@pytest.mark.parametrize("message", REFUSED)
def test_what_cannot_be_asked_is_refused(spoken, message, capsys):
    with pytest.raises(InputError, match=message):
        generate.run([str(spoken), "--prompt", PROMPT, *REFUSED[message]])
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    "raw, message",
    [
        (b"\xe6\x9d\x91\n\xb4\xe5\n", "prompts.txt:2: not UTF-8"),
        (b"\n \n", "no prompt in it"),
        (("村\n" + "长" * 99).encode(), "32 positions"),
        (None, "prompts.txt: No such file"),
    ],
    ids=["encoding", "empty", "too long", "missing"],
)
def test_a_file_of_prompts_is_looked_through_first(spoken, tmp_path, raw, message, capsys):
    if raw is not None:
        (tmp_path / "prompts.txt").write_bytes(raw)
    with pytest.raises(InputError, match=message):
        generate.run([str(spoken), "--prompts", str(tmp_path / "prompts.txt")])
    assert capsys.readouterr().out == ""


def test_a_damaged_checkpoint_that_is_named_is_refused(spoken):
    cut(spoken / "checkpoint-3" / "model.safetensors")
    for argv in (["--checkpoint", "3", str(spoken)], [str(spoken / "checkpoint-3")]):
        with pytest.raises(InputError, match="checkpoint-3: model.safetensors has"):
            generate.run([*argv, "--prompt", PROMPT])
    (spoken / "checkpoint-6" / checkpoint.SEAL).unlink()
    with pytest.raises(InputError, match="no seal.json"):
        generate.run([str(spoken / "checkpoint-6"), "--prompt", PROMPT])
