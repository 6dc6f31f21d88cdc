#!/bin/sh
# Put what examples/foreign needs of npm under .cache/foreign, at the versions of its lock. What is there is kept.
# Usage: tools/node.sh
set -eu
cd "$(dirname "$0")/.."

from=examples/foreign
home=.cache/foreign
cmp -s "$from/package-lock.json" "$home/ready" && exit

command -v node >/dev/null || tools/apt.sh "the examples in JavaScript need Node.js" nodejs npm
command -v npm >/dev/null || tools/apt.sh "the packages of examples/foreign come by npm" npm

echo "murmur: getting the packages of $from by npm into .cache (seconds, once)"
rm -rf "$home"
mkdir -p "$home"
cp "$from/package.json" "$from/package-lock.json" "$home/"
npm ci --prefix "$home" --silent --no-audit --no-fund --ignore-scripts </dev/null || {
    echo "murmur: npm could not get the packages; mend the above, then try again: make brokers" >&2
    exit 1
}
cp "$from/package-lock.json" "$home/ready"
