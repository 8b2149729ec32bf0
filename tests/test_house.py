"""The shape of the repository: who imports whom, how long the scripts are, what lies at the top."""

import ast
import subprocess
import sys

import pytest
from conftest import ROOT

STANDARD = set(sys.stdlib_module_names)
LEVEL_1 = set("datasets filelock numpy opencc pyarrow rensa tiktoken tokenizers".split())
LEVEL_1 |= {"charset_normalizer", "xxhash", "zstandard"}
LEVEL_1 |= {"matplotlib", "rjieba"}  # for a picture in docs/, for words; not needed to train
LEVEL_2 = LEVEL_1 | set("accelerate transformers torch safetensors evaluate wandb swanlab".split())
LEVEL_2 |= {"gradio", "starlette"}  # for a page in a browser; not needed to train

# Module: what of the package it may import; everything below its own level is understood.
LEVELS = {
    0: {
        "errors": set(),
        "disk": set(),
        "check": set(),
        "recipe": {"check"},
        "command": {"check", "recipe"},
        "plan": set(),
        "step_memory": {"plan"},
        "writer": set(),
        "rule": {"recipe"},
        "scaling": set(),
        "rules_optimizer": {"recipe", "rule"},
        "rules_text": {"recipe", "rule", "scaling"},
        "rules_machine": {"recipe", "rule"},
        "lint": {"check", "recipe", "rule", "rules_optimizer", "rules_text", "rules_machine"},
        "options": {"command", "recipe"},
        "cards": set(),
        "kills": set(),
        "storage": {"plan"},
        "plan_screen": {"cards", "report"},
        "ledger": {"tally"},
        "clock": set(),
        "bpe_progress": {"clock"},
        "tally": set(),
        "leaving": set(),
        "watch": {"leaving", "recipe"},
        "session": {"command", "disk", "leaving", "recipe", "report"},
        "report": {"leaving", "lint"},
        "marks": set(),
        "record": {"disk", "marks", "report", "session"},
        "village": set(),
        "survey_table": {"report"},
        "benchmark_table": set(),
        "benchmark_run_table": {"benchmark_table"},
        "allocator": set(),
        "benchmark_step_table": {"benchmark_table"},
        "benchmark_scale_table": {"benchmark_table"},
        "passages": set(),
        "bpe_table": {"report", "survey_table"},
        "page_file": {"disk"},
        "bpe_page": {"bpe_table", "page_file"},
        "meter": set(),
        "runs": {"session"},
        "ranking": {"runs"},
        "contrast": {"ranking", "runs"},
        "phrases": set(),
        "guards": set(),
        "repetition": set(),
        "stillness": set(),
        "compare_table": {"contrast", "phrases", "ranking", "report", "runs", "survey_table"},
        "compare_page": {"contrast", "page_file", "phrases", "ranking", "report", "runs"},
        "compare": {"compare_page", "compare_table", "contrast", "ranking", "runs"},
    },
    1: {
        "files": set(),
        "encodings": set(),
        "unpack": {"files"},
        "tables": {"encodings", "unpack"},
        "text": {"files", "encodings", "unpack", "tables"},
        "bpe": {"text"},
        "pre_tokenizer": {"pattern"},
        "pre_tokens": set(),
        "bpe_text": set("bpe cleaning duplicates frequent sources text".split()),
        "bpe_prune": {"encoder"},
        "bpe_train": {"bpe", "bpe_prune", "bpe_text", "pre_tokenizer", "pre_tokens"},
        "bpe_folder": {"bpe", "bpe_text", "pre_tokenizer"},
        "pattern": set(),
        "encoder": {"pattern"},
        "duplicates": set(),
        "frequent": set(),
        "cleaning": {"duplicates", "frequent"},
        "sources": {"files", "text"},
        "parts": {"encoder", "sources", "text"},
        "contamination": {"duplicates", "parts"},
        "blocks": {"parts"},
        "preparation": set("blocks cleaning contamination duplicates encoder frequent".split())
        | set("parts sources text".split()),
        "corpus": {"parts", "preparation", "sources", "survey", "text"},
        "order": set(),
        "checkpoint": {"files"},
        "lock": set(),
        "baseline": {"text", "files"},
        "curve": set(),
        "growth": set(),
        "growth_table": {"growth"},
        "findings": {"growth_table"},
        "growth_curve": {"curve", "findings", "growth", "growth_table"},
        "unigram": set(),
        "culprit": {"order"},
        "bpe_curve": {"curve"},
        "survey": {"text", "files", "bpe", "cleaning", "encoder", "frequent"},
        "sample": {"cleaning", "encoder", "files", "sources", "text", "unpack"},
    },
    2: {
        "machine": set(),
        "vocabulary": set(),
        "facts": {"machine"},
        "probe": set("callbacks collator initial machine memory sampling stopping".split()),
        "outlook": {"facts", "machine", "micro_batch", "probe"},
        "collator": set(),
        "metrics": set(),
        "muon": set(),
        "memory": set(),
        "peers": set(),
        "sharding": {"peers"},
        "randomness": set(),
        "halving": set(),
        "attention": set(),
        "micro_batch": {"halving", "initial", "machine", "peers"},
        "keeping": {"memory", "peers", "randomness", "sharding"},
        "schedule": set(),
        "initial": {"attention"},
        "sampling": set(),
        "callbacks": set("console figures guarding peers sampling sharding tracking".split()),
        "console": set(),
        "swan": set(),
        "figures": set(),
        "guarding": {"peers", "sharding", "tracking"},
        "weights": set(),
        "generate": {"machine", "sampling", "weights"},
        "page": {"generate", "machine", "sampling"},
        "stopping": {"peers"},
        "tracking": {"leaving", "swan"},
        "launch": set(),
        "contenders": set(),
        "candidate": set(),
        "bpe_counts": {"candidate"},
        "bpe_compare": {"candidate", "bpe_counts"},
        "benchmark_preparation": {"contenders"},
        "benchmark_save": {"keeping", "machine"},
        "benchmark_startup": {"callbacks", "keeping", "machine"},
        "steppers": set(),
        "benchmark_step": {"steppers"},
        "benchmark_scale": {"benchmark_preparation", "benchmark_save", "benchmark_startup"}
        | {"machine"},
        "benchmark": {"benchmark_preparation", "benchmark_save", "benchmark_startup", "machine"}
        | {"benchmark_scale", "benchmark_step", "steppers"},
    },
}
LIBRARIES = {0: set(), 1: LEVEL_1, 2: LEVEL_2}
MODULES = [(level, name) for level, names in LEVELS.items() for name in names]
TOP = set("README.md requirements.txt LICENSE recipes tokenizer run_clm.py run_bpe.py".split())


def imported(path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module == "zhgpt":
            names |= {f"zhgpt.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module)
    return names


# What only reports, refuses or types values; those that decide are in the cache's key themselves.
BESIDE_THE_BLOCKS = {"zhgpt.recipe", "zhgpt.check", "zhgpt.errors", "zhgpt.clock"}


def test_the_key_of_the_cache_has_all_code_that_makes_blocks():
    """Settings are in the key by their values, so `recipe` and what checks it need not be."""
    reached, waiting = set(), {"zhgpt.preparation"}
    while waiting:
        reached |= waiting
        paths = [ROOT / f"{name.replace('.', '/')}.py" for name in waiting]
        waiting = {m for path in paths for m in imported(path) if m.startswith("zhgpt.")} - reached
    from zhgpt import corpus

    made_by = {f"zhgpt.{name}" for name in corpus._MODULES} - {"zhgpt.corpus"}
    assert made_by == reached - BESIDE_THE_BLOCKS


def test_every_module_has_its_level():
    present = {p.stem for p in (ROOT / "zhgpt").glob("*.py")} - {"__init__"}
    assert present == {name for _, name in MODULES}
    assert (ROOT / "zhgpt" / "__init__.py").read_text() == ""


@pytest.mark.parametrize("level, name", MODULES)
def test_imports_go_one_way(level, name):
    below = {f"zhgpt.{n}" for lower in range(level) for n in LEVELS[lower]}
    allowed = below | {f"zhgpt.{n}" for n in LEVELS[level][name]} | {"zhgpt.errors"}
    for module in imported(ROOT / "zhgpt" / f"{name}.py"):
        if module.startswith("zhgpt"):
            assert module in allowed
        else:
            assert module.split(".")[0] in STANDARD | LIBRARIES[level]


@pytest.mark.parametrize("script, lines", [("run_clm.py", 150), ("run_bpe.py", 80)])
def test_scripts_are_short(script, lines):
    assert len((ROOT / script).read_text(encoding="utf-8").splitlines()) <= lines


def test_the_main_script_names_the_library_itself():
    names = (ROOT / "run_clm.py").read_text(encoding="utf-8")
    for name in ("TrainingArguments", "DataCollatorForLanguageModeling", "GPT2Config", "Trainer"):
        assert f"{name}(" in names or f"{name},\n" in names


def test_nothing_else_lies_at_the_top():
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True).stdout
    top = {line.split("/")[0] for line in listed.splitlines()}
    assert {name for name in top if not name.startswith(".")} <= TOP | {"tests", "docs", "zhgpt"}


def test_recipes_are_data():
    assert not list((ROOT / "recipes").rglob("*.py"))


def test_requirements_are_exact_and_argued():
    for line in (ROOT / "requirements.txt").read_text().splitlines():
        assert line.startswith("#") or ("==" in line and "  # " in line), line
