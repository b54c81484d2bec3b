"""What the manager gives up for good, so that no program that it starts can have it.

Both are passed on from a process to its children. To set them between fork and exec would run
Python in the child of a process with threads, and to set them from outside comes after the start.
"""

from __future__ import annotations

import ctypes
import resource
import sys

# Of linux/prctl.h. Python has no name for it, and no function.
_PR_SET_NO_NEW_PRIVS = 38


def confine() -> None:
    """Leave no core dumps, which hold keys and texts, and on Linux never gain privileges.

    To be called by the main thread, which starts the programs: on Linux the latter is a thread's
    own. A set-uid program runs without its owner's rights from then on. A kernel that refuses
    changes nothing.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux":
        yes, nothing = ctypes.c_ulong(1), ctypes.c_ulong(0)
        ctypes.CDLL(None).prctl(_PR_SET_NO_NEW_PRIVS, yes, nothing, nothing, nothing)
