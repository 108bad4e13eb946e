"""Runs a command and prints what it took as JSON: status, seconds, processor seconds, peak bytes of resident memory.

A program of its own, as Linux counts for a new process what the one that started it holds: this one holds next to
nothing, and a benchmark a gigabyte. What the command prints is thrown away; what it says on stderr goes there.

    python -I launcher.py COMMAND ARGUMENT...
"""

import json
import resource
import subprocess
import sys
import time

if __name__ == "__main__":
    started = time.perf_counter()
    status = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL).returncode
    seconds = time.perf_counter() - started
    used = resource.getrusage(resource.RUSAGE_CHILDREN)  # of its descendants, memory of the largest one
    print(json.dumps([status, seconds, used.ru_utime + used.ru_stime, used.ru_maxrss * 1024]))
