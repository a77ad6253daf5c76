"""A plan as a shell script that a person can run by hand."""

from __future__ import annotations

import shlex
from pathlib import Path

from pdcache.gateway.smg import manifest
from pdcache.plan.process import Plan, Process
from pdcache.topology.schema import Role

_HEAD = """#!/usr/bin/env bash
# Cluster {name}, mode {mode}: every process that `pdcache up` would start, in the same order.
# Ends, with all its processes, on Ctrl-C or when a process dies.
set -euo pipefail
{path}LOGS=${{LOGS:-$(mktemp -d)}}
PIDS=()
stop() {{
  trap - EXIT INT TERM
  for pid in "${{PIDS[@]}}"; do kill -TERM "$pid" 2>/dev/null || true; done
  wait "${{PIDS[@]}}" 2>/dev/null || true
  rm -rf {temp} {manifest}
  rmdir {temp_parent} 2>/dev/null || true
}}
trap stop EXIT
trap 'exit 130' INT TERM
# The supervisor ends a whole process tree and the shared memory it would leave behind.
SUPERVISOR=$({python} -c 'from pdcache.cluster import supervisor; print(supervisor.__file__)')
run() {{
  local name=$1 grace=$2
  shift 2
  {python} -S -E "$SUPERVISOR" -1 "$grace" -- "$@" >"$LOGS/$name.log" 2>&1 </dev/null &
  PIDS+=($!)
}}
all_live() {{
  for pid in "${{PIDS[@]}}"; do
    kill -0 "$pid" 2>/dev/null || {{ echo "a process died; logs: $LOGS" >&2; exit 1; }}
  done
}}
wait_http() {{
  for _ in $(seq $(($2 * 2))); do
    curl -sf -o /dev/null --max-time 5 "$1" && return
    all_live
    sleep 0.5
  done
  echo "$1 did not answer; logs: $LOGS" >&2; exit 1
}}
wait_port() {{
  for _ in $(seq $(($3 * 2))); do
    (exec 3<>"/dev/tcp/$1/$2") 2>/dev/null && return
    all_live
    sleep 0.5
  done
  echo "$1:$2 did not answer; logs: $LOGS" >&2; exit 1
}}
echo "logs: $LOGS"
mkdir -p {temp} {manifest_folder}
# The key for administration is a new one; that of the gateway is $GATEWAY_KEY, if it is set.
(umask 077 && {python} -c 'import json, os, secrets
key = os.environ.get("GATEWAY_KEY")
print(json.dumps({{"admin": secrets.token_urlsafe(32), "gateway": key}}))' >{temp}/keys.json)
"""


def shell_script(plan: Plan) -> str:
    """The script: processes wave by wave, each wave waited for; needs bash and curl."""
    lines = [
        _HEAD.format(
            name=plan.name,
            python=shlex.quote(plan.python),
            mode=plan.mode.value,
            path=_search_path(plan.python),
            temp=shlex.quote(plan.temp),
            temp_parent=shlex.quote(plan.temp.rpartition("/")[0]),
            manifest=shlex.quote(plan.manifest),
            manifest_folder=shlex.quote(plan.manifest.rpartition("/")[0]),
        )
    ]
    gpu = 0
    for wave in sorted({process.wave for process in plan.processes}):
        members = [process for process in plan.processes if process.wave == wave]
        if members[0].role is Role.GATEWAY:
            lines += _manifest(plan)
        for process in members:
            devices = ",".join(str(gpu + i) for i in range(process.gpus))
            gpu += process.gpus
            lines.append(_start(process, devices))
        lines += [_wait(process) for process in members]
    # `wait -n` would not see a process that died before it.
    lines += [f'echo "UP {plan.endpoint}"', "while all_live; do sleep 0.5 & wait $!; done"]
    return "\n".join(lines) + "\n"


def _search_path(python: str) -> str:
    """Programs such as etcd are looked for beside the interpreter first."""
    folder = Path(python).parent
    return f"export PATH={shlex.quote(str(folder))}:$PATH\n" if folder.is_absolute() else ""


def _start(process: Process, devices: str) -> str:
    env = dict(process.env) | ({"CUDA_VISIBLE_DEVICES": devices} if devices else {})
    pairs = [f"{key}={shlex.quote(value)}" for key, value in env.items()]
    before = [f"mkdir -p {shlex.quote(folder)}" for folder in process.folders]
    for path, text in process.files.items():
        folder = path.rpartition("/")[0]
        before += [f"mkdir -p {shlex.quote(folder)}", f"cat >{shlex.quote(path)} <<'PDCACHE_FILE'"]
        before += [*text.splitlines(), "PDCACHE_FILE"]
    lines = [
        f"run {process.name} {process.grace_s:g}",
        " ".join(["env", *pairs]),
        " ".join(shlex.quote(word) for word in process.argv),
    ]
    return "\n".join([*before, " \\\n  ".join(lines)])


def _wait(process: Process) -> str:
    limit = int(process.start_s)
    if process.url is not None:
        return f"wait_http {process.url}{process.ready_path} {limit}"
    return f"wait_port {process.address} {process.health_port} {limit}"


def _manifest(plan: Plan) -> list[str]:
    workers = (*plan.role(Role.PREFILL), *plan.role(Role.DECODE))
    text = manifest(
        (worker.name, worker.role, worker.url or "", worker.ports.get("bootstrap"))
        for worker in workers
    )
    return [f"cat >{shlex.quote(plan.manifest)} <<'WORKERS'", text, "WORKERS"]
