#!/usr/bin/env bash
# Asking pip for the newest grafana-foundation-sdk brings the code for the oldest Grafana that it serves, and bounds on
# Grafana's version do the opposite of what they say.
#
# Version: grafana-foundation-sdk 1769699998!10.1.0 and its siblings up to 1769699379!11.6.0 (January 2026), with pip 23.2.1.
# Behaviour: what looks like the version is Grafana's; before it stands an epoch, the second of the build. A build makes
#   one package for each Grafana, 11.6 first and 10.1 last, so the epoch of 10.1 is the highest. An epoch outranks all
#   that follows it: ">=11.6" is true of 10.1.0, "<12" only of what was published without an epoch (0.0.21, of 2024),
#   ">=11,<12", "~=11.6" and "==11.6.0" of nothing. Only "==EPOCH!11.6.0" gives 11.6.
# Source: the versions that "pip index versions grafana-foundation-sdk" lists; PEP 440, "Version epochs", which says
#   that versions of different epochs are compared by the epoch alone.
# Seen:
#   as before: no bound: 10.1.0
#   as before: >=11.6: 10.1.0
#   as before: <12: v0.0.21
#   as before: >=11,<12: nothing
#   as before: ~=11.6: nothing
#   as before: ==11.6.0: nothing
#   as before: ==1769699379!11.6.0: 1769699379!11.6.0
. "$(dirname "$0")/lib/workspace.sh"

# resolve SPECIFIER: say what pip would install.
resolve() {
    "$PYTHON" -m pip install --disable-pip-version-check --no-cache-dir --dry-run --no-deps -q --report - "$1" 2>/dev/null |
        "$PYTHON" -c '
import json, sys
report = sys.stdin.read()
print(json.loads(report)["install"][0]["metadata"]["version"] if report else "nothing")'
}

python_packages pip==23.2.1
name=grafana-foundation-sdk
# The epoch changes with each build: what counts is the Grafana behind it.
expect 'no bound' '10.1.0' "$(resolve "$name" | cut -d '!' -f 2)"
expect '>=11.6' '10.1.0' "$(resolve "$name>=11.6" | cut -d '!' -f 2)"
expect '<12' 'v0.0.21' "$(resolve "$name<12")"
for bounds in '>=11,<12' '~=11.6' '==11.6.0'; do
    expect "$bounds" 'nothing' "$(resolve "$name$bounds")"
done
expect '==1769699379!11.6.0' '1769699379!11.6.0' "$(resolve "$name==1769699379!11.6.0")"
