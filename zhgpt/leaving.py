"""Leaving when told to: at once while nothing is worth saving, else where the work can be saved.

Every way out ends with exit code 75. Signals are heard by a thread, so that they are answered while
the main thread is inside a library's long call too: an import, a compilation, a wait for a peer.
"""

import atexit
import multiprocessing
import multiprocessing.util
import os
import select
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from zhgpt.errors import INTERRUPTED

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
_ENOUGH = 3  # signals of one kind: who asks for the third time will not wait
_SECONDS_FOR_LAST_ACTS = 5  # a record on a dead network disk must not keep the process

BEGAN = time.monotonic()  # this module is a command's first import
PARENT = os.getppid()  # another one later: who started this process has ended


class _State:
    """What this process has been told; one per process, as signals are."""

    def __init__(self) -> None:
        self.reason: str | None = None
        self.listening = False
        self.deferred = False
        self.turning = threading.RLock()  # between "at once" and "deferred" nobody leaves
        self.heard: Counter = Counter()
        self.last_acts: list[Callable[[str], None]] = []
        self.first_acts: list[Callable[[], None]] = []


_state = _State()


def listen() -> None:
    """From now on signals end this process with 75; call it in the main thread, before all else.

    What is ignored stays so: nohup and a shell's background jobs mean it.
    """
    ours, theirs = os.pipe()
    os.set_blocking(theirs, False)
    signal.set_wakeup_fd(theirs, warn_on_full_buffer=False)
    for number in SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _nothing)
    _state.listening = True
    os.register_at_fork(after_in_child=_be_deaf)
    atexit.register(_end_workers)  # before multiprocessing's own act, which was registered earlier
    threading.Thread(target=_hear, args=(ours,), name="signals", daemon=True).start()


def _nothing(number, frame) -> None:
    """The thread has heard it already."""


def _be_deaf() -> None:
    """A forked child (a data worker) is ended by its parent, not by a signal to the whole group.

    SIGTERM is blocked rather than ignored: torch gives its workers a handler of their own, and one
    that died would take the parent's step with it.
    """
    if not _state.listening:
        return
    _state.listening = False
    signal.set_wakeup_fd(-1)
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def _end_workers() -> None:
    """multiprocessing would end them with the signal that they are deaf to, and wait for ever."""
    for child in multiprocessing.active_children():
        if child.daemon:
            child.kill()


def _hear(pipe: int) -> None:
    while True:
        for number in os.read(pipe, 64):
            if number in SIGNALS:
                _receive(signal.Signals(number))


def _receive(number: signal.Signals) -> None:
    _state.heard[number] += 1
    if _state.heard[number] >= _ENOUGH:
        abandon(f"{number.name} for the third time: leaving at once; the last checkpoint counts")
    ask(number.name, f"{_shown(number)} received")


def _shown(number: signal.Signals) -> str:
    return "Ctrl-C (SIGINT)" if number == signal.SIGINT else number.name


def ask(reason: str, told: str | None = None) -> None:
    """Makes this process leave; `reason` is for the record, the first one counts."""
    with _state.turning:
        first, _state.reason = _state.reason is None, _state.reason or reason
        if not _state.listening:
            return  # inside another program: the callbacks of training look at `asked`
        if _state.deferred:
            if first:
                _tell(f"{told or reason}: saving after this step, then leaving")
                _first_acts()
            return
        _tell(f"{told or reason}: leaving; nothing is lost, the same command continues")
        _leave(reason)


def asked() -> str | None:
    """Why this process has to leave as soon as its work is saved; None: it need not."""
    return _state.reason if _state.deferred or not _state.listening else None


def listening() -> bool:
    return _state.listening


def forget() -> None:
    """For a run inside another program: what an earlier run was told is not told to this one."""
    _state.reason = None


def defer() -> None:
    """From now on there is work to save: who asks has it saved first."""
    if not _state.deferred:
        with _state.turning:
            _state.deferred = True


def at_once() -> None:
    """From now on everything is saved: who asks, or has asked, makes the process end here."""
    with _state.turning:
        _state.deferred = False


@contextmanager
def first_act(act: Callable[[], None]) -> Iterator[None]:
    """Inside, `act` is done as soon as somebody asks for a departure that work is saved before."""
    _state.first_acts.append(act)
    try:
        yield
    finally:
        _state.first_acts.remove(act)


def _first_acts() -> None:
    for act in _state.first_acts:
        with suppress(OSError):
            act()


@contextmanager
def last_act(act: Callable[[str], None]) -> Iterator[None]:
    """Inside, `act(reason)` is done before a departure at once: a record ended, a lock released."""
    _state.last_acts.append(act)
    try:
        yield
    finally:
        _state.last_acts.remove(act)


def abandon(line: str) -> None:
    """Ends the process without a last act: what it would write to is no longer its own."""
    _tell(line)
    os._exit(INTERRUPTED)


def _leave(reason: str) -> None:
    """Ends the process without unwinding: what lies on disk is as good as after a kill."""
    acts = threading.Thread(target=_last_acts, args=(reason,), daemon=True)
    acts.start()
    acts.join(_SECONDS_FOR_LAST_ACTS)
    for child in multiprocessing.active_children():
        child.kill()
    os._exit(INTERRUPTED)


def _last_acts(reason: str) -> None:
    for act in reversed(_state.last_acts):
        with suppress(OSError):  # a full disk, a folder that is gone: the next start finds out
            act(reason)


def _tell(line: str) -> None:
    """Past Python's buffers, whose lock the main thread may hold; no reader is waited for."""
    if os.environ.get("RANK", "0") != "0" or not select.select([], [1], [], 1)[1]:
        return
    try:
        os.write(1, (line + "\n").encode())
    except OSError:
        return  # a closed terminal: nobody is there to be told
