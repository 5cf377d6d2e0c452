#!/bin/sh
# Runs the tests on every Python from 3.10 on that is on the PATH or that pyenv has.
set -eu
cd "$(dirname "$0")/.."

pythons() {
    for minor in 10 11 12 13 14 15; do
        # Debian's Python can be there without ensurepip, and then makes no virtual environment.
        for python in "python3.$minor" "$(pyenv root 2>/dev/null || true)"/versions/3."$minor".*/bin/python; do
            if "$python" -c "import ensurepip, sys, venv; sys.exit(sys.version_info[:2] != (3, $minor))" 2>/dev/null; then
                echo "$python"
                break
            fi
        done
    done
}

found=$(pythons)
for python in $found; do
    version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
    venv=.venv-$version
    echo "== Python $version"
    [ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
    "$venv/bin/python" -m pip install --quiet --upgrade pip
    "$venv/bin/python" -m pip install --quiet --editable . --group test
    "$venv/bin/python" -m pytest ${PYTEST_ARGS:--n auto}
done
echo "passed on:" $found
