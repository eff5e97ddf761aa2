# Sourced by each finding: a folder that is removed at the end, and what it needs to install and to judge.
# shellcheck shell=bash

set -euo pipefail

WORK=$(mktemp -d)
PIDS=()

# End what was started, by its id, and remove the folder.
clean_up() {
    local pid
    for pid in "${PIDS[@]:-}"; do
        if [ -n "$pid" ]; then
            kill -KILL "$pid" 2>/dev/null || true
            wait "$pid" 2>/dev/null || true
        fi
    done
    rm -rf "$WORK"
}
trap clean_up EXIT

# python_packages NAME==VERSION ...: make $PYTHON, a Python that has them.
python_packages() {
    python3 -m venv "$WORK/python"
    PYTHON=$WORK/python/bin/python
    "$PYTHON" -m pip install --disable-pip-version-check --no-cache-dir --progress-bar off -q "$@"
}

# npm_packages NAME@VERSION ...: install them in the folder that becomes the current one.
npm_packages() {
    mkdir -p "$WORK/node"
    cd "$WORK/node"
    echo '{"private": true, "type": "module"}' >package.json
    npm install --cache "$WORK/npm-cache" --no-audit --no-fund --ignore-scripts --loglevel=error "$@" >"$WORK/npm.log" ||
        { cat "$WORK/npm.log"; exit 1; }
}

# expect WHAT EXPECTED SEEN: say whether it is as it was, and end the finding if it is not.
expect() {
    if [ "$2" = "$3" ]; then
        printf 'as before: %s: %s\n' "$1" "$3"
    else
        printf 'CHANGED: %s: %s, it was %s\n' "$1" "$3" "$2"
        exit 1
    fi
}

# expect_output FILE: compare what a program said with the lines on standard input, and end the finding if they differ.
expect_output() {
    if diff "$1" - >"$WORK/difference"; then
        cat "$1"
    else
        echo 'CHANGED (<: now, >: before)'
        cat "$WORK/difference"
        exit 1
    fi
}
