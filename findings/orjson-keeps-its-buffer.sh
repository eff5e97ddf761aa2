#!/usr/bin/env bash
# What orjson.dumps() returns keeps the whole buffer that it was written into, many times its length, and
# sys.getsizeof() does not show it.
#
# Version: orjson 3.13.0 (3.11.9 beside it: the buffer was smaller, but was kept as well).
# Behaviour: the writer starts with 4 kB and reserves more before each dictionary and list, by the number of their
#   members. At the end it sets the object's size first and asks CPython to shrink the object after that: which finds
#   the size to be right already and does nothing. The unused rest stays allocated for as long as the result lives.
#   bytes(result) and result[:] return the same object; a copy through a memoryview is as large as its length.
# Source: src/serialize/writer/byteswriter.rs, `finish`, which calls Py_SET_SIZE before `resize` (seen at 3.11.8, lines
#   70-81 and 112-121), beside CPython's Objects/bytesobject.c, `_PyBytes_Resize`, which returns at once where the
#   old size is the new one. The larger buffer of 3.12 is told of in pull request 181245 of home-assistant/core.
# Seen (x86-64, CPython 3.11.7):
#   orjson 3.13.0: length 624, sys.getsizeof 657, allocated 8145, copied 657
#   orjson 3.11.9: length 624, sys.getsizeof 657, allocated 1057, copied 657
#   as before: orjson 3.13.0, more than ten times the length: kept, a copy fits, bytes() and [:] copy nothing
#   as before: orjson 3.11.9, more than the length and a half: kept, a copy fits, bytes() and [:] copy nothing
. "$(dirname "$0")/lib/workspace.sh"

cat >"$WORK/measure.py" <<'PY'
import sys
import tracemalloc

import orjson

document = {"id": "x" * 36, "data": {f"member_{number}": "v" * 14 for number in range(20)}}
KEPT = 1_000


def bytes_each(make):
    """Return what the allocator gave for one kept result."""
    kept = [None] * KEPT
    tracemalloc.start()
    for number in range(KEPT):
        kept[number] = make()
    allocated, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return round(allocated / KEPT)


written = orjson.dumps(document)
plain = bytes_each(lambda: orjson.dumps(document))
copied = bytes_each(lambda: bytes(memoryview(orjson.dumps(document))))
same = bytes(written) is written and written[:] is written
print(f"orjson {orjson.__version__}: length {len(written)}, sys.getsizeof {sys.getsizeof(written)}, "
      f"allocated {plain}, copied {copied}", file=sys.stderr)
print("kept" if plain > float(sys.argv[1]) * len(written) else "not kept",
      "a copy fits" if copied < 1.2 * len(written) else "a copy does not fit",
      "bytes() and [:] copy nothing" if same else "bytes() or [:] copies", sep=", ")
PY

python_packages orjson==3.13.0
expect 'orjson 3.13.0, more than ten times the length' 'kept, a copy fits, bytes() and [:] copy nothing' \
    "$("$PYTHON" "$WORK/measure.py" 10)"

python_packages orjson==3.11.9
expect 'orjson 3.11.9, more than the length and a half' 'kept, a copy fits, bytes() and [:] copy nothing' \
    "$("$PYTHON" "$WORK/measure.py" 1.5)"
