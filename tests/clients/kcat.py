"""Sends and reads with kcat as a script would: `python kcat.py kcat`, asked by JSON on standard input."""

import json
import subprocess
import sys

asked = json.load(sys.stdin)
command = ["kcat", "-b", asked["servers"], "-t", asked["topic"]]
for name, value in asked["settings"].items():
    command += ["-X", f"{name}={value}"]
if asked["do"] == "send":
    lines = "".join(f"{key}\t{asked['value']}\n" for key in asked["keys"])
    sys.exit(subprocess.run([*command, "-P", "-K", "\t"], input=lines, text=True, check=False).returncode)
read = [*command, "-C", "-p", "0", "-o", "beginning", "-e", "-q", "-f", "%s\\n"]
json.dump(subprocess.run(read, stdout=subprocess.PIPE, text=True, check=True).stdout.splitlines(), sys.stdout)
