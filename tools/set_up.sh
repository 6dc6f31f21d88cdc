#!/bin/sh
# Make .venv hold the project (editable), its tools and the clients of all brokers, at the versions of uv.lock.
# Other extras stay out: redis-py loads OpenTelemetry where it finds it, a third of a second in each process.
#
# Needs a Python of 3.11 or later and a package index, no more. Safe to run again: what is
# there is kept. Usage: tools/set_up.sh   (PYTHON=/path/to/python chooses the interpreter)
set -eu
cd "$(dirname "$0")/.."

# Prints the first interpreter that is new enough. A name that exists may still be a shim that
# refuses, so each is asked.
find_python() {
    for name in ${PYTHON:-python3 python3.13 python3.12 python3.11 python3.14}; do
        if "$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            echo "$name"
            return
        fi
    done
    return 1
}

# Debian keeps `venv` in a package of its own; without it `import venv` works and `ensurepip` does not.
have_venv() {
    "$python" -c 'import ensurepip, venv' 2>/dev/null
}

make_venv() {
    if ! python=$(find_python); then
        if [ -n "${PYTHON:-}" ]; then
            echo "murmur: PYTHON=$PYTHON is no Python of 3.11 or later. Name another, or none." >&2
            exit 1
        fi
        tools/apt.sh "no Python of 3.11 or later found" python3 python3-venv
        python=$(find_python) || {
            echo "murmur: this system's Python is older than 3.11. Install a newer one and say: make PYTHON=/path/to/python" >&2
            exit 1
        }
    fi
    version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
    if ! have_venv; then
        tools/apt.sh "Python $version has no venv module" "python$version-venv"
    fi
    echo "murmur: making .venv with Python $version"
    "$python" -m venv --clear .venv
}

works() {
    .venv/bin/python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null &&
        .venv/bin/python -m pip --version >/dev/null 2>&1
}

# uv installs what the lock says. An index that pip is configured for and uv is not (a mirror,
# a proxy with its own certificate) still works: the locked versions are then fetched by pip.
install_locked() {
    extras="--extra dev --extra nats --extra kafka --extra rabbitmq"
    .venv/bin/python -m pip install -q "uv>=0.9" || return 1
    if .venv/bin/uv sync -q --locked $extras; then
        return
    fi
    echo "murmur: uv could not install uv.lock (see above); installing the same versions by pip" >&2
    .venv/bin/uv export -q --frozen $extras --no-hashes --no-emit-project -o .venv/locked.txt &&
        .venv/bin/python -m pip install -q -r .venv/locked.txt &&
        .venv/bin/python -m pip install -q --no-deps -e .
}

export PIP_DISABLE_PIP_VERSION_CHECK=1
export UV_LINK_MODE=copy # a cache on another file system is no news
unset VIRTUAL_ENV        # somebody else's environment is not ours to fill

works || make_venv
echo "murmur: installing the project and its tools into .venv (a minute, once)"
if ! install_locked; then
    echo "murmur: the locked versions cannot be had here; installing what pyproject.toml allows" >&2
    .venv/bin/python -m pip install -q -e '.[dev,nats,kafka,rabbitmq]'
fi
