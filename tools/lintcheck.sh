#!/usr/bin/env bash
# Proves that the linter holds the import directions: copies the tree, plants every import of the table below in the copy, and fails unless
# exactly the wrong ones are refused. A rule of .golangci.yml that never bites (a wrong path, a nested prefix) shows here and nowhere else.
#
# A plant imports a leaf package made for it below the folder named, so that no plant closes an import cycle: the compiler would refuse
# that before the linter has its say.
set -euo pipefail
cd "$(dirname "$0")/.."

module=github.com/berthhq/berth
nats=github.com/nats-io/nats.go
server=github.com/nats-io/nats-server/v2/server

# verdict  importing file (* is replaced)    import (./ is ours)
table="
wrong      plant*.go                         ./events
wrong      plant*.go                         $nats
wrong      events/plant*.go                  ./placement
wrong      events/plant*.go                  ./tokens/api
wrong      events/plant*.go                  $nats
wrong      events/plant*.go                  net/http
wrong      tokens/api/plant*.go              ./events
wrong      tokens/api/plant*.go              ./tokens
wrong      tokens/api/plant*.go              $nats
wrong      placement/plant*.go               ./registry
wrong      placement/plant*.go               ./jetstream
wrong      placement/plant*.go               context
wrong      placement/plant*.go               crypto/rand
wrong      placement/plant*.go               hash/maphash
wrong      placement/plant*.go               log/slog
wrong      placement/plant*.go               math/rand/v2
wrong      placement/plant*.go               net
wrong      placement/plant*.go               os
wrong      placement/sim/plant*.go           ./sessions
wrong      registry/plant*.go                ./residency
wrong      registry/plant*.go                ./sessions
wrong      registry/plant*.go                ./tokens
wrong      registry/plant*.go                $nats
wrong      registry/reduce_plant*.go         net/http
wrong      registry/detector_plant*.go       os
wrong      primary/plant*.go                 ./placement
wrong      primary/plant*.go                 $nats
wrong      policy/plant*.go                  ./residency
wrong      policy/plant*.go                  ./jetstream
wrong      residency/plant*.go               ./policy
wrong      residency/plant*.go               ./registry
wrong      residency/plant*.go               ./jetstream
wrong      sessions/plant*.go                ./registry
wrong      sessions/plant*.go                ./tokens
wrong      sessions/plant*.go                $nats
wrong      sessions/plant*.go                net
wrong      sessions/plant*.go                os
wrong      console/plant*.go                 ./tokens
wrong      console/plant*.go                 ./jetstream
wrong      dns/plant*.go                     ./sdk/server
wrong      dns/route53/plant*.go             $nats
wrong      sdk/server/plant*.go              ./tokens
wrong      sdk/server/plant*.go              ./jetstream
wrong      sdk/server/plant*.go              $nats
wrong      sdk/client/plant*.go              ./sdk/server
wrong      sdk/client/plant*.go              ./registry
wrong      tokens/plant*.go                  ./sdk/server
wrong      tokens/plant*.go                  ./jetstream
wrong      tokens/plant*.go                  ./cmd
wrong      tokens/plant*.go                  $nats
wrong      jetstream/plant*.go               ./cmd
wrong      jetstream/plant*.go               ./jetstream/embedded
wrong      jetstream/plant*.go               ./jetstream/jetstreamtest
wrong      jetstream/plant*.go               $server
wrong      cmd/berth/plant*.go               ./jetstream/jetstreamtest
wrong      cmd/berth/plant*.go               $server
wrong      cmd/berth/plant*.go               log
wrong      cmd/berth/plant*.go               math/rand

right      placement/plant*.go               ./events
right      placement/plant*.go               ./tokens/api
right      placement/plant*.go               time
right      placement/plant*_test.go          os
right      registry/plant*.go                ./placement
right      registry/plant*.go                log/slog
right      registry/telemetry/plant*.go      ./registry
right      policy/plant*.go                  ./primary
right      residency/plant*.go               ./placement
right      sessions/plant*.go                ./placement
right      sessions/plant*_test.go           ./jetstream/jetstreamtest
right      console/plant*.go                 ./registry
right      dns/plant*.go                     ./residency
right      sdk/server/plant*.go              ./registry
right      sdk/server/plant*.go              ./sessions
right      sdk/client/plant*.go              ./tokens/api
right      tokens/plant*.go                  ./sessions
right      tokens/plant*.go                  ./tokens/api
right      jetstream/plant*.go               ./tokens
right      jetstream/plant*.go               ./sdk/server
right      jetstream/plant*.go               $nats
right      jetstream/embedded/plant*.go      $server
right      jetstream/embedded/plant*.go      ./jetstream
right      jetstream/jetstreamtest/plant*.go ./jetstream/embedded
right      jetstream/jetstreamtest/plant*.go $server
right      cmd/berth/plant*.go               ./jetstream/embedded
right      cmd/berth/plant*.go               ./console
right      cmd/berth/plant*.go               $nats
"

lint=$(go tool -modfile=tools/go.mod -n golangci-lint)
tree=$(mktemp -d)
trap 'rm -rf "$tree"' EXIT

# package_of prints the package clause that a file planted in a folder needs.
package_of() {
	case $1 in
	.) echo berth ;;
	cmd/berth) echo main ;;
	*) basename "$1" ;;
	esac
}

# plant writes one importing file and, for an import of ours, the leaf it imports; it prints the file's name.
plant() {
	local number=$1 file=${2/\*/_$1} import=$3
	if [[ $import == ./* ]]; then
		mkdir -p "$tree/$import/planted"
		echo 'package planted' >"$tree/$import/planted/planted.go"
		import=$module/${import#./}/planted
	fi
	mkdir -p "$tree/$(dirname "$file")"
	printf 'package %s\n\nimport _ "%s"\n' "$(package_of "$(dirname "$file")")" "$import" >"$tree/$file"
	echo "$file"
}

git ls-files -z --cached --others --exclude-standard -- '*.go' go.mod go.sum .golangci.yml |
	while IFS= read -r -d '' file; do if [[ -f $file ]]; then printf '%s\0' "$file"; fi; done |
	tar -c --null -T - | tar -x -C "$tree"

declare -A verdicts imports
number=0
while read -r verdict file import; do
	[[ -n $verdict ]] || continue
	number=$((number + 1))
	planted=$(plant "$number" "$file" "$import")
	verdicts[$planted]=$verdict
	imports[$planted]=$import
done <<<"$table"

# Exit status 1 means findings, anything above means that the linter itself failed.
status=0
report=$(cd "$tree" && "$lint" run --allow-parallel-runners --enable-only depguard --output.text.print-issued-lines=false ./... 2>&1) || status=$?
if ((status > 1)) || grep -q '(typecheck)$' <<<"$report"; then
	printf '%s\nlintcheck: the linter could not read the planted tree\n' "$report" >&2
	exit 1
fi

faults=0
for planted in "${!verdicts[@]}"; do
	refused=right
	if grep -q "^$planted:3:8: .*(depguard)\$" <<<"$report"; then refused=wrong; fi
	if [[ $refused != "${verdicts[$planted]}" ]]; then
		faults=$((faults + 1))
		echo "lintcheck: ${verdicts[$planted]} import of ${imports[$planted]} in $(dirname "$planted"): linter calls it $refused" >&2
	fi
done
if ((faults > 0)); then
	exit 1
fi
echo "lintcheck: $number planted imports, each judged rightly"
