#!/bin/sh
# Put a current nats-server for the tests under .cache/nats-VERSION, beside the older one of Debian: built by Go.
# What is there is kept. Prints its folder. Usage: tools/nats.sh
set -eu
cd "$(dirname "$0")/.."

version=2.15.2
home=$PWD/.cache/nats-$version
if [ ! -x "$home/nats-server" ]; then
    command -v go >/dev/null || tools/apt.sh "a current nats-server is built with Go" golang-go
    echo "murmur: building nats-server $version into .cache (a minute, once)" >&2
    GOBIN=$home GOFLAGS=-mod=mod go install "github.com/nats-io/nats-server/v2@v$version" >&2
fi
echo "$home"
