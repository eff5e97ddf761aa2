"""The command `inmail`, as a process that ends with the one that started it, however that ends."""

import ctypes
import signal

from workers.cli import main

_PR_SET_PDEATHSIG = 1

if __name__ == "__main__":
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    main()
