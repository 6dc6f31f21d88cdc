#!/bin/sh
# Install Debian packages where this user may: as root, or by a sudo that asks for no password.
# Where not, say what to type and fail. Never waits for an answer.
#
# Usage: tools/apt.sh "what is missing" package...
set -eu

missing=$1
shift

root=
if [ "$(id -u)" != 0 ]; then
    if command -v sudo >/dev/null && sudo -n true 2>/dev/null; then
        root="sudo -n"
    else
        root=none
    fi
fi

if [ "$root" = none ] || ! command -v apt-get >/dev/null; then
    echo "murmur: $missing. Install it, then try again. On Debian or Ubuntu: sudo apt-get install $*" >&2
    exit 1
fi

log=$(mktemp)
trap 'rm -f "$log"' EXIT
quietly() {
    # shellcheck disable=SC2086  # an empty $root is no word at all
    $root env DEBIAN_FRONTEND=noninteractive apt-get -q -y "$@" >"$log" 2>&1 </dev/null
}

echo "murmur: $missing; installing $* by apt-get"
# A stale index is no reason to stop: the packages may be known all the same.
quietly update || echo "murmur: apt-get update failed, going on with the index as it is" >&2
if ! quietly install --no-install-recommends "$@"; then
    cat "$log" >&2
    echo "murmur: apt-get could not install $*. Mend the above, then try again." >&2
    exit 1
fi
