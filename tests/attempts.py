"""The main script as an attempt: a process that a moment's signal may end, and what it leaves.

An attempt is forked from a process that has made the imports, which saves their eight seconds, or
is the command itself. A forked one tells through shared memory what it is at, so that a signal can
be aimed; nothing of the program is changed by that but the time it takes.
"""

import contextlib
import faulthandler
import functools
import gc
import hashlib
import json
import mmap
import os
import re
import runpy
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import torch
import transformers
from conftest import ROOT, tiny_stories, write_jsonl

from zhgpt import callbacks, checkpoint, corpus, leaving

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP)
PATIENCE = 90  # seconds; no attempt at so small a model takes a tenth of it
# What the main thread is at while one of these runs; the innermost counts.
WITHIN = [
    (corpus, "prepare", "preparing"),
    (transformers.Trainer, "__init__", "building"),
    (checkpoint, "newest", "looking for a checkpoint"),
    (transformers.Trainer, "train", "training"),
    (transformers.Trainer, "evaluate", "evaluating"),
    (callbacks, "continuations", "sampling"),
    (transformers.Trainer, "save_model", "last files"),
    (transformers.Trainer, "save_state", "last files"),
    (transformers.Trainer, "save_metrics", "last files"),
]
ELSEWHERE = "elsewhere"  # from the last handler of a signal on: before it, some still kill
SAVING = "saving"  # from the first file of a checkpoint to its final name, in whatever thread
PHASES = ("not begun", ELSEWHERE, *dict.fromkeys(phase for *_, phase in WITHIN), SAVING)
CHANGES = ("open", "os.rename", "os.remove", "os.mkdir", "os.rmdir")
PARTIAL = re.compile(r"\.?checkpoint-\d+\.?\w*")
FINAL = re.compile(r"checkpoint-\d+")


@dataclass(frozen=True)
class Moment:
    """`seconds` after the `number`th time that `phase` began, or before change number `change`
    that saves make to the disk.
    """

    phase: str = ELSEWHERE
    number: int = 1
    seconds: float = 0.0
    change: int | None = None


@dataclass(frozen=True)
class Blow:
    """A signal, when, and to whom: the process that was started, or all that belong to it."""

    signal: signal.Signals
    moment: Moment
    group: bool = True
    again: float | None = None  # seconds after which the same signal comes a second time


class Board:
    """Numbers that a process and its parent both see: times a phase began, seconds in it."""

    def __init__(self):
        self.numbers = memoryview(mmap.mmap(-1, 8 * (2 * len(PHASES) + 3))).cast("d")

    def began(self, phase: str) -> float:
        return self.numbers[PHASES.index(phase)]

    def seconds(self, phase: str) -> float:
        return self.numbers[len(PHASES) + PHASES.index(phase)]

    def add(self, phase: str, begun: int, seconds: float) -> None:
        self.numbers[PHASES.index(phase)] += begun
        self.numbers[len(PHASES) + PHASES.index(phase)] += seconds

    def __getattr__(self, name: str) -> float:
        return self.numbers[self._slot(name)]

    def put(self, name: str, value: float) -> None:
        self.numbers[self._slot(name)] = value

    @staticmethod
    def _slot(name: str) -> int:
        return 2 * len(PHASES) + ("phase", "is_saving", "changes").index(name)

    def phases(self) -> list[str]:
        """Those that were begun."""
        return [phase for phase in PHASES if self.began(phase)]

    @property
    def where(self) -> str:
        return SAVING if self.is_saving else PHASES[int(self.phase)]


class Watch:
    """In the process of an attempt: writes to the board, and strikes where a change is aimed at."""

    def __init__(self, board: Board, folder: Path, blow: Blow | None):
        self.board, self.folder, self.blow = board, str(folder), blow
        self.save_began = 0.0
        for place, name, phase in WITHIN:
            setattr(place, name, self.within(getattr(place, name), phase))
        os.fsync = self.counted(os.fsync)
        signal.signal = self.beginning(signal.signal)
        sys.addaudithook(self.hook)

    def beginning(self, function: Callable) -> Callable:
        @functools.wraps(function)
        def noted(*args):
            before = function(*args)
            if args[0] == leaving.SIGNALS[-1] and not self.board.began(ELSEWHERE):
                self.enter(ELSEWHERE)
            return before

        return noted

    def enter(self, phase: str) -> None:
        self.board.put("phase", PHASES.index(phase))
        self.board.add(phase, 1, 0.0)

    def within(self, function: Callable, phase: str) -> Callable:
        @functools.wraps(function)
        def noted(*args, **settings):
            before, began = self.board.phase, time.monotonic()
            self.enter(phase)
            try:
                return function(*args, **settings)
            finally:
                self.board.put("phase", before)
                self.board.add(phase, 0, time.monotonic() - began)

        return noted

    def counted(self, function: Callable) -> Callable:
        @functools.wraps(function)
        def change(*args):
            self.change()
            return function(*args)

        return change

    def hook(self, event: str, arguments: tuple) -> None:
        if event not in CHANGES:
            return
        names = [str(a) for a in arguments[:2] if isinstance(a, str | os.PathLike)]
        if event == "os.mkdir" and self.is_new(names[0]):
            self.board.put("is_saving", 1)
            self.board.add(SAVING, 1, 0.0)
            self.save_began = time.monotonic()
        self.change()
        published = event == "os.rename" and self.is_checkpoint(names[-1], FINAL)
        abandoned = event == "os.rmdir" and self.is_checkpoint(names[0], PARTIAL)
        if self.board.is_saving and (published or abandoned):
            self.board.put("is_saving", 0)
            self.board.add(SAVING, 0, time.monotonic() - self.save_began)

    def is_new(self, path: str) -> bool:
        return self.is_checkpoint(path, PARTIAL) and not os.path.exists(path)

    def is_checkpoint(self, path: str, form: re.Pattern) -> bool:
        folder, _, name = os.fspath(path).rpartition("/")
        return folder == self.folder and form.fullmatch(name) is not None

    def change(self) -> None:
        if self.board.is_saving:
            self.board.put("changes", self.board.changes + 1)
            if self.blow and self.blow.moment.change == self.board.changes:
                strike(os.getpid(), self.blow)


def strike(pid: int, blow: Blow) -> None:
    """To the group of `pid`, or to it alone; nothing where it has ended."""
    with contextlib.suppress(ProcessLookupError):
        (os.killpg if blow.group else os.kill)(pid, blow.signal)


@dataclass(frozen=True)
class Outcome:
    """How an attempt ended: the codes of its processes, negative for a signal; what it printed;
    what it was at when it was struck, None if it was not.
    """

    codes: list[int]
    output: str
    where: str | None
    board: Board

    @property
    def code(self) -> int:
        return self.codes[0]


@dataclass
class Run:
    """A recipe, the folder of its run and, beside it, a cache and the attempts' logs.

    `words` are further options of the command; `prepare` is called in every process of an attempt
    before the program begins.
    """

    recipe: Path
    folder: Path
    processes: int = 1
    words: Sequence[str] = ()
    attempts: int = 0
    prepare: Callable[[], None] = lambda: None

    @property
    def cache(self) -> Path:
        return self.folder.with_name(f"{self.folder.name}-cache")

    @property
    def log(self) -> Path:
        return self.folder.with_name(f"{self.folder.name}-{self.attempts}.log")

    def attempt(self, blow: Blow | None = None, fresh: bool = False) -> Outcome:
        """The same command once more; a moment that does not come strikes nobody."""
        self.attempts += 1
        boards = [Board() for _ in range(self.processes)]
        if fresh:
            pids = [self.fork(self.execute, 0)]
        else:
            port, pids = str(free_port()), []
            for rank, board in enumerate(boards):
                begin = functools.partial(self.imitate, rank, port, board, blow)
                pids.append(self.fork(begin, pids[0] if pids else 0))
        return self.follow(pids, Hand(pids[0], boards, blow, fresh))

    def fork(self, begin: Callable[[], None], group: int) -> int:
        """A child in a process group of its own, or in `group`, whose lines go to the log."""
        pid = os.fork()
        if pid:
            with contextlib.suppress(OSError):  # the child has done it, or has ended
                os.setpgid(pid, group or pid)
            return pid
        try:
            os.setpgid(0, group)
            log = os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(log, 1)
            os.dup2(log, 2)
            begin()
        finally:
            os._exit(1)

    def execute(self) -> None:
        """The command itself, with its imports."""
        os.environ["HF_DATASETS_CACHE"] = str(self.cache)
        os.chdir(ROOT)
        os.execv(sys.executable, [sys.executable, *self.launcher(), *self.command()])

    def command(self) -> list[str]:
        words = ["run_clm.py", str(self.recipe), "--output_dir", str(self.folder)]
        return [*words, "--accept", "many-epochs", *self.words]  # of thirty stories

    def launcher(self) -> list[str]:
        several = ["-m", "zhgpt.launch", "--standalone"]
        return [*several, f"--nproc_per_node={self.processes}"] if self.processes > 1 else []

    def imitate(self, rank: int, port: str, board: Board, blow: Blow | None) -> None:
        """What the command would do behind its imports, to the exit code."""
        sys.stdout, sys.stderr = (open(n, "w", buffering=1, closefd=False) for n in (1, 2))
        faulthandler.dump_traceback_later(PATIENCE - 5)
        datasets.config.HF_DATASETS_CACHE = self.cache
        if self.processes > 1:
            names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_PORT")
            values = (rank, rank, self.processes, self.processes, port)
            os.environ.update(zip(names, map(str, values), strict=True), MASTER_ADDR="127.0.0.1")
        for number in SIGNALS:
            usual = signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
            signal.signal(number, usual)
        self.prepare()
        Watch(board, self.folder, blow if rank == 0 else None)
        os._exit(self.code())

    def code(self) -> int:
        sys.argv = self.command()
        code = 1
        try:
            runpy.run_path(str(ROOT / "run_clm.py"), run_name="__main__")
        except SystemExit as end:
            code = end.code or 0
        except BaseException:
            sys.excepthook(*sys.exc_info())
        threading._shutdown()  # as at the interpreter's end: waits for threads
        return code

    def follow(self, pids: list[int], hand: "Hand") -> Outcome:
        """Waits for the end of all of them, and strikes meanwhile."""
        codes: dict[int, int] = {}
        deadline = time.monotonic() + PATIENCE
        while len(codes) < len(pids):
            failed = any(codes.values())
            codes |= ended(set(pids) - codes.keys())
            hand.move(self.log)
            if any(codes.values()) and not failed:
                time.sleep(0.1)
                send(set(pids) - codes.keys(), signal.SIGTERM)  # as torchrun does
            if time.monotonic() > deadline:
                send(set(pids) - codes.keys(), signal.SIGKILL)
            time.sleep(0.0005)
        output = self.log.read_text(encoding="utf-8", errors="replace")
        return Outcome([codes[pid] for pid in pids], output, hand.where, hand.board)


def ended(pids: set[int]) -> dict[int, int]:
    """Those that have ended, and their codes."""
    states = (os.waitpid(pid, os.WNOHANG) for pid in pids)
    return {pid: os.waitstatus_to_exitcode(status) for pid, status in states if pid}


def send(pids: set[int], number: signal.Signals) -> None:
    for pid in pids:
        os.kill(pid, number)


class Hand:
    """Strikes an attempt from outside when the moment has come, and notes what it was at."""

    def __init__(self, pid: int, boards: list[Board], blow: Blow | None, fresh: bool):
        self.pid, self.blow, self.fresh = pid, blow, fresh
        self.board, *self.others = boards
        self.due: float | None = None
        self.where: str | None = None
        self.struck = 0.0

    def move(self, log: Path) -> None:
        if self.blow is None:
            return
        if self.where:
            self.repeat()
        elif self.blow.moment.change is not None:
            self.where = SAVING if self.board.changes >= self.blow.moment.change else None
            self.struck = time.monotonic()
        elif self.is_due():
            self.where = self.seen(log) if self.fresh else self.board.where
            self.struck = time.monotonic()
            strike(self.pid, self.blow)

    def is_due(self) -> bool:
        moment = self.blow.moment
        # One that is no further than the interpreter's start cannot answer a signal.
        hears = self.blow.signal == signal.SIGKILL or all(b.began(ELSEWHERE) for b in self.others)
        reached = self.board.began(moment.phase) >= moment.number and hears
        if self.due is None and (self.fresh or reached):
            self.due = time.monotonic() + moment.seconds
        return self.due is not None and time.monotonic() >= self.due

    def repeat(self) -> None:
        again = self.blow.again
        if again is not None and time.monotonic() >= self.struck + again:
            strike(self.pid, self.blow)
            self.blow = None

    def seen(self, log: Path) -> str:
        """Of a fresh process only what it printed is known."""
        return "after the first line" if log.exists() and log.stat().st_size else "imports"


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


# For write_recipe: no dropout, whose masks differ with the number of processes.
STILL = {f"model__{key}": 0.0 for key in ("resid_pdrop", "embd_pdrop", "attn_pdrop")}


def write_recipe(folder: Path, **changes: Any) -> Path:
    """A recipe of a run of a second over three epochs; keywords change it: `model__n_layer=2`."""
    files = {
        f"{split}_files": [str(write_jsonl(folder / f"{split}.jsonl", tiny_stories(*make)))]
        for split, make in {"train": (30, 1), "validation": (6, 2)}.items()
    }
    recipe = {
        "name": "attempt",
        "purpose": "a run that is disturbed",
        "tokenizer": str(ROOT / "tokenizer" / "village_4k"),
        "corpus": files | {"block_size": 32},
        "model": {"n_layer": 1, "n_head": 2, "n_embd": 16}
        | dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.1),
        "tokens_per_step": 256,
        "training_arguments": {
            "max_steps": 12,
            "learning_rate": 1e-2,
            "per_device_train_batch_size": 8,
            "per_device_eval_batch_size": 4,
            "logging_steps": 3,  # not a divisor of save_steps: means reach over a checkpoint
            "eval_strategy": "steps",
            "eval_steps": 6,
            "save_steps": 4,
            "use_cpu": True,
            "report_to": "none",
        },
        "samples": {"prompts": ["村民们都很高兴"], "max_new_tokens": 8},
    }
    for key, value in changes.items():
        *sections, leaf = key.split("__")
        functools.reduce(dict.__getitem__, sections, recipe)[leaf] = value
    path = folder / "recipe.json"
    path.write_text(json.dumps(recipe, ensure_ascii=False), encoding="utf-8")
    return path


TIMES = re.compile("runtime|per_second|seconds|memory_gb")


def result(folder: Path) -> dict[str, Any]:
    """All that a run comes to except times: what must not depend on what befell it."""
    state = json.loads((folder / "trainer_state.json").read_text(encoding="utf-8"))
    record = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    weights = (folder / "model.safetensors").read_bytes()
    facts = {f"log line {n}": untimed(line) for n, line in enumerate(state["log_history"])}
    return facts | {
        "steps": state["global_step"],
        "operations": state["total_flos"],
        "status": record["status"],
        "metrics": untimed(record["metrics"]),
        "results": untimed(json.loads((folder / "all_results.json").read_text(encoding="utf-8"))),
        "weights": hashlib.sha256(weights).hexdigest(),
        "samples": (folder / "samples.jsonl").read_text(encoding="utf-8"),
    }


def untimed(figures: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in figures.items() if not TIMES.search(key)}


def differences(folder: Path, twin: dict[str, Any]) -> list[str]:
    """What the run in `folder` came to that its undisturbed twin did not; files left lying."""
    try:
        here = result(folder)
    except (OSError, ValueError) as error:
        return [f"not finished: {error}"]
    keys = [key for key in twin | here if here.get(key) != twin.get(key)]
    found = [f"{key}: {here.get(key)!s:.160} instead of {twin.get(key)!s:.160}" for key in keys]
    if len(found) > 2:
        found[1:] = [f"and {len(found) - 1} more: {', '.join(keys[1:])}"]
    return found + [f"left behind: {name}" for name in left_behind(folder)]


def require_equal(folder: Path, twin: dict[str, Any]) -> None:
    """AssertionError with every difference in full, whatever the test runner would cut."""
    found = differences(folder, twin)
    assert not found, f"{folder} is not as its twin:\n" + "\n".join(found)


def left_behind(folder: Path) -> Iterator[str]:
    """Half-made files under names of their own; what was set aside is kept on purpose."""
    for path in sorted(folder.rglob("*")):
        if re.search(r"\.(tmp|partial)", path.name) and "broken" not in str(path):
            yield str(path.relative_to(folder))


def warm_up() -> None:
    """Call it once before the first attempt, in the process that they are forked from."""
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)
    gc.collect()
    gc.freeze()  # a child would else copy all that its collector looks at
