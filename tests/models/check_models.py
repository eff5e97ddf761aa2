"""Reads events with generated Python models: says in a line for each line of standard input whether it can.

A line of input has the event's class and the event. The program runs in the generator's environment.
"""

import importlib
import json
import sys

from pydantic import ValidationError

for line in sys.stdin:
    asked = json.loads(line)
    module = importlib.import_module("inmail_events." + asked["event"]["type"].replace(".", "_").replace("-", "_"))
    try:
        getattr(module, asked["class"]).model_validate_json(json.dumps(asked["event"]))
    except ValidationError as error:
        print("refused:", error.errors()[0]["loc"], error.errors()[0]["msg"])
    else:
        print("read")
