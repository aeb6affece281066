#!/usr/bin/env bash
# Build the source distribution, build the wheel from it, and use the wheel as a user would:
#   1. without extras and without torch: help and listings work, training names the missing extra;
#   2. with the extras and with third-party plugins: train on digits with them, and export;
#   3. with only the extra `runtime`, as on a target without torch: listings and the bundle of step 2 work.
# Usage: scripts/check_wheel.sh PYTHON, where PYTHON has the package `build`. The files are written to dist/.
set -euo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
python="$(cd "$(dirname "$1")" && pwd)/$(basename "$1")"
third_party="$root/tests/third_party"
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT

fail() {
    echo "check_wheel: $*" >&2
    exit 1
}

environment() { # name, then the packages to install
    local name="$1"
    shift
    "$python" -m venv "$work/$name"
    "$work/$name/bin/python" -m pip install --quiet --disable-pip-version-check -c "$root/constraints.txt" "$@"
}

rm -rf "$root/dist"
"$python" -m build --outdir "$root/dist" "$root"
wheel="$(echo "$root"/dist/*.whl)"
cd "$work" # not in the working tree, so that only installed packages can be imported

echo "== the wheel without extras"
environment alone "$wheel"
alone="$work/alone/bin/distillkit"
"$alone" --help >/dev/null
"$alone" plugins
"$alone" recipes
status=0
"$alone" run --out "$work/never" >"$work/output" 2>&1 || status=$?
cat "$work/output"
[[ "$status" -eq 2 ]] || fail "distillkit run without extras exits with $status; it should exit with 2"
grep -qF 'distillkit[train]' "$work/output" || fail "distillkit run without extras does not name the extra"

echo "== the wheel with its extras and third-party plugins"
environment full "$wheel[train,export]" "$third_party/distillkit-margin" "$third_party/distillkit-pt2"
full="$work/full/bin/distillkit"
"$full" plugins
"$full" run --loss ce --set training.steps=4 --out "$work/teacher"
"$full" run --teacher "run:$work/teacher" --loss margin --set training.steps=4 --out "$work/student"
"$full" evaluate "$work/student"
"$full" export "$work/student" --out "$work/bundle"
"$full" export "$work/student" --format pt2 --out "$work/bundle-pt2"

echo "== the wheel on a target: no torch, no timm, no onnx"
environment target "$wheel[runtime]"
target="$work/target/bin/distillkit"
lacking="$("$work/target/bin/python" -c 'from importlib.util import find_spec as find
print(*(name for name in ("torch", "timm", "onnx") if find(name)))')"
[[ -z "$lacking" ]] || fail "distillkit[runtime] installs $lacking"
"$work/target/bin/python" -c 'from PIL import Image; Image.linear_gradient("L").save("image.png")'
"$target" --help >/dev/null
"$target" plugins >/dev/null
"$target" doctor
"$target" verify "$work/bundle"
"$target" predict "$work/bundle" image.png --top 3
"$target" profile "$work/bundle" --batches 1 --seconds 0.5 --out "$work/profile"
echo "== ok: $(basename "$wheel")"
