#!/usr/bin/env bash
# Build the source distribution and, from it, the wheel; then use the wheel as strangers do:
#   1. alone, in an environment without torch: help and listings work, training names the missing extra;
#   2. with the extras and a third party's plugin beside it: train on digits by its name and export.
# Usage: scripts/check_wheel.sh PYTHON, where PYTHON has the package `build`. Leaves the files in dist/.
set -euo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
python="$(cd "$(dirname "$1")" && pwd)/$(basename "$1")"
third_party="$root/tests/third_party/distillkit-margin"
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT

fail() {
    echo "check_wheel: $*" >&2
    exit 1
}

environment() { # name, then what to install
    local name="$1"
    shift
    "$python" -m venv "$work/$name"
    "$work/$name/bin/python" -m pip install --quiet --disable-pip-version-check -c "$root/constraints.txt" "$@"
}

rm -rf "$root/dist"
"$python" -m build --outdir "$root/dist" "$root"
wheel="$(echo "$root"/dist/*.whl)"
cd "$work" # away from the working tree: only what is installed can be imported

echo "== the wheel alone"
environment alone "$wheel"
alone="$work/alone/bin/distillkit"
"$alone" --help >/dev/null
"$alone" plugins
"$alone" recipes
status=0
"$alone" run --out "$work/never" >"$work/said" 2>&1 || status=$?
cat "$work/said"
[[ "$status" -eq 2 ]] || fail "distillkit run without extras exits with $status; it should exit with 2"
grep -qF 'distillkit[train]' "$work/said" || fail "distillkit run without extras does not name the extra"

echo "== the wheel with its extras and a third party's plugin"
environment full "$wheel[train,export]" "$third_party"
full="$work/full/bin/distillkit"
"$full" plugins
"$full" run --loss ce --set training.steps=4 --out "$work/teacher"
"$full" run --teacher "run:$work/teacher" --loss margin --set training.steps=4 --out "$work/student"
"$full" evaluate "$work/student"
"$full" export "$work/student"
echo "== ok: $(basename "$wheel")"
