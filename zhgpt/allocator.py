"""Memory that torch frees on a CPU is kept for the next step, not given back to the system."""

import ctypes
import os
import platform

# Numbers of mallopt's options and its values (glibc: malloc.h; mallopt(3)).
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4
_NEVER, _PIECE = 2**31 - 1, 256 << 20
# Whoever sets one of them has an opinion.
_OPINIONS = ("MALLOC_MMAP_MAX_", "MALLOC_TRIM_THRESHOLD_", "MALLOC_TOP_PAD_", "LD_PRELOAD")


def keep_freed() -> bool:
    """Whether it is so now: with glibc, unless the environment says otherwise.

    By default glibc maps each tensor above 32 MB anew and gives it back when it is freed: at every
    step the kernel clears the same pages again. Values of a computation do not change, its peak of
    memory stays for the rest of the process. docs/speed.md has the measurement.
    """
    if platform.libc_ver()[0] != "glibc" or any(name in os.environ for name in _OPINIONS):
        return False
    mallopt = ctypes.CDLL(None).mallopt
    options = ((_MMAP_MAX, 0), (_TRIM_THRESHOLD, _NEVER), (_TOP_PAD, _PIECE))
    return all([mallopt(option, value) for option, value in options])
