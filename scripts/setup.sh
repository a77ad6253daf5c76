#!/usr/bin/env bash
# Makes .venv with everything that pdcache, its tests and its CPU lane need. Usage: scripts/setup.sh
#
# A second run does nothing and takes well under a second: .venv/.pdcache-setup holds a hash of all
# that decides the outcome. It is written last, so a run that was cut short is begun anew (from
# pip's cache), and a changed lock is installed over what is there.
#
# PYTHON=/path/to/python chooses the interpreter; the locks were made with 3.11.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"
venv=$root/.venv
stamp=$venv/.pdcache-setup
began=$SECONDS

say() { printf '%s\n' "$*"; }
die() {
    printf 'setup: %s\n' "$@" >&2
    exit 1
}

# One line per step: what, then how long it took. The output is shown only if the step fails.
step() {
    local title=$1 start=$SECONDS
    shift
    printf '  %-56s' "$title"
    if "$@" >"$log" 2>&1 </dev/null; then
        printf '%4d s\n' $((SECONDS - start))
    else
        printf 'FAILED\n\n'
        tail -n 40 "$log" >&2
        die "'$title' failed (above: the last lines of its output)." \
            "If it was the network, run the same command again: what was fetched is kept."
    fi
}

fingerprint() {
    { printf '%s\n' "$root" && cat requirements/*.txt pyproject.toml scripts/setup.sh; } |
        sha256sum | cut -d' ' -f1
}

is_ready() {
    [[ -f $stamp && $(<"$stamp") == "$wanted" ]] && "$venv/bin/python" -c 'import pdcache' 2>/dev/null
}

is_new_enough() {
    "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null
}

find_python() {
    local candidate
    if [[ -n ${PYTHON:-} ]]; then
        is_new_enough "$PYTHON" || die "PYTHON=$PYTHON is not a Python of version 3.11 or newer."
        command -v "$PYTHON"
        return
    fi
    for candidate in python3.11 python3.12 python3.13 python3; do
        if is_new_enough "$candidate"; then
            command -v "$candidate"
            return
        fi
    done
    die "Python 3.11 or newer is needed; found: $(python3 --version 2>/dev/null || echo none)." \
        "Install it, or name one: PYTHON=/path/to/python3.11 make setup"
}

has_library() { PATH=$PATH:/sbin:/usr/sbin ldconfig -p | grep -F "$1" >/dev/null; }
has_browser() { command -v chromium >/dev/null || command -v google-chrome >/dev/null; }
has_header() { printf '#include <%s>\n' "$1" | g++ -E -x c++ - >/dev/null 2>&1; }
python_has() { "$python" -c "$1" 2>/dev/null; }

# Debian's name of each missing part. Asked by what it gives, as other systems name packages otherwise.
missing_packages() {
    local version
    version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
    has_library libibverbs.so.1 || echo libibverbs1 # Mooncake
    has_library libnuma.so.1 || echo libnuma1       # Mooncake
    has_library libcurl.so.4 || echo libcurl4       # Mooncake
    has_header openssl/evp.h || echo libssl-dev     # SGLang's page-hash extension
    command -v g++ >/dev/null || echo g++           # the same
    command -v ninja >/dev/null || echo ninja-build # the same
    has_browser || echo chromium                    # tests of report.html
    python_has 'import ensurepip, venv' || echo "python$version-venv"
    python_has 'import os, sysconfig as s
assert os.path.exists(os.path.join(s.get_path("include"), "Python.h"))' || echo "python$version-dev"
}

# A mirror may be out for a moment, and the browser is large.
install_packages() {
    local attempt
    for attempt in 1 2 3; do
        apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq "$@" && return
        sleep $((attempt * 5))
    done
    return 1
}

provide_packages() {
    local packages
    mapfile -t packages < <(missing_packages)
    ((${#packages[@]})) || return 0
    if ! command -v apt-get >/dev/null; then
        die "these libraries and tools are missing, by the names Debian gives them:" \
            "  ${packages[*]}" "Install what your system calls them, then run this again."
    elif ((EUID != 0)); then
        die "these Debian packages are missing. Install them, then run this again:" \
            "  sudo apt-get update && sudo apt-get install -y ${packages[*]}"
    fi
    step "Debian packages: ${packages[*]}" install_packages "${packages[@]}"
    mapfile -t packages < <(missing_packages)
    ((${#packages[@]} == 0)) || die "still missing after apt-get install: ${packages[*]}"
}

make_venv() {
    rm -rf "$venv" && "$python" -m venv "$venv"
}

# Byte code is made afterwards on all cores, which pip does on one.
pip_install() {
    "$venv/bin/python" -m pip install -qq --disable-pip-version-check --no-input --no-compile "$@"
}

# Without it the first SGLang servers would each compile some thousand modules during their start.
# A package may carry files that are no Python (templates), so its complaints do not matter.
compile_bytecode() {
    "$venv/bin/python" -m compileall -q -j 0 "$venv/lib" || true
}

# SGLang compiles it on first use otherwise, in the middle of a worker's start. The lane without
# CUDA cannot import torchvision, which this does not need.
build_page_hash() {
    OMP_NUM_THREADS=1 "$venv/bin/python" -c '
import sys
sys.modules["torchvision"] = None
from sglang.srt.mem_cache.cpp_utils.native_hash import get_native_hash
get_native_hash([1, 2, 3, 4], None, 4)'
}

# etcd elects the leading Mooncake master (topologies/mooncake_ha.yaml). Debian's package would start
# a service of its own, so only the program is taken out of it.
fetch_etcd() {
    local folder
    if command -v etcd >/dev/null; then
        ln -sf "$(command -v etcd)" "$venv/bin/etcd"
        return
    fi
    folder=$(mktemp -d)
    (
        cd "$folder"
        if ((EUID == 0)); then
            chown -f _apt . || true
            apt-get update -qq
        fi
        apt-get download -qq etcd-server
        dpkg -x etcd-server_*.deb .
        install -m 755 usr/bin/etcd "$venv/bin/etcd"
    )
    rm -rf "$folder"
}

make_model() {
    "$venv/bin/python" -c '
from pdcache.models import resolve_model
resolve_model("smollm2-135m", progress=print)'
}

wanted=$(fingerprint)
is_ready && exit 0

# The folder itself is the lock: no file to leave behind, and it is released with the process.
exec 9<"$root"
if ! flock -n 9; then
    say "setup: another set-up of this folder is running, waiting for it"
    flock 9
fi
is_ready && exit 0

log=$(mktemp)
trap 'rm -f "$log"' EXIT
python=$(find_python)
say "Setting up .venv with $("$python" --version) (three to five minutes the first time)"
provide_packages
if [[ -f $stamp ]] && is_new_enough "$venv/bin/python"; then
    rm -f "$stamp"
else
    step "virtual environment" make_venv
fi
step "torch (requirements/torch.txt)" pip_install -r requirements/torch.txt
step "SGLang, Mooncake, smg, Ray (requirements/cpu.txt)" \
    pip_install --no-deps -r requirements/cpu.txt
step "linters and test runner (requirements/dev.txt)" \
    pip_install --no-deps -r requirements/dev.txt
step "pdcache itself" pip_install --no-deps --no-build-isolation -e .
step "byte code" compile_bytecode
step "SGLang's page-hash extension (compiled once)" build_page_hash
if command -v etcd >/dev/null || command -v apt-get >/dev/null; then
    step "etcd (for several Mooncake masters)" fetch_etcd
else
    say "  etcd is not here: topologies/mooncake_ha.yaml will need it on the PATH"
fi
step "built-in model smollm2-135m (converted once)" make_model
printf '%s\n' "$wanted" >"$stamp"
say "Ready in $((SECONDS - began)) s. Commands are in .venv/bin; \`make help\` lists what to do next."
