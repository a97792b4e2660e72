#!/usr/bin/env bash
# Runs every fuzz target of the module in turn, each for the time given (10s by default). The go command fuzzes one target of one
# package at a time, hence the loops. An input that fails is kept by Go below that package's testdata/fuzz.
set -euo pipefail
cd "$(dirname "$0")/.."
exec </dev/null

duration=${1:-10s}
targets=0
for package in $(go list ./...); do
	listing=$(go test -list='^Fuzz' "$package")
	for target in $(grep '^Fuzz' <<<"$listing"); do
		echo "==> $package $target"
		go test -run='^$' -fuzz="^$target\$" -fuzztime="$duration" "$package"
		targets=$((targets + 1))
	done
done
if ((targets == 0)); then
	echo "fuzz: no targets" >&2
	exit 1
fi
echo "fuzz: $targets targets, $duration each, nothing found"
