#!/usr/bin/env bash
# The demo: both topologies one after the other on this machine, each proved and then loaded with the
# same multi-turn chats; at the end, side by side, what was reused. Usage: scripts/demo.sh
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"
pdcache=.venv/bin/pdcache
out=${OUT:-out/demo}
sessions=examples/multi_turn/sessions.jsonl
clusters=()

cleanup() {
    for name in "${clusters[@]}"; do "$pdcache" down "$name" || true; done
}
trap cleanup EXIT
trap 'exit 130' INT TERM

began=$SECONDS
for mode in prefill_only full_offload; do
    name=demo-${mode//_/-}
    printf '\n== topologies/%s.yaml ==\n' "$mode"
    clusters+=("$name")
    "$pdcache" up "topologies/$mode.yaml" --name "$name"
    printf '\nreplaying %s\n' "$sessions"
    "$pdcache" replay "$sessions" --target "$name" --out "$out/$mode"
    "$pdcache" down "$name"
    clusters=()
done
printf '\n== side by side ==\n'
"$pdcache" compare "$out/prefill_only" "$out/full_offload"
printf '\ndone in %d s; reports in %s\n' $((SECONDS - began)) "$out"
