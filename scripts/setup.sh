#!/usr/bin/env bash
# Makes .venv and installs momafuse into it, with its pinned dependencies; safe to interrupt and to run again.
#
# PYTHON       the interpreter to build on (default: the first of python3, python3.13, 3.12, 3.11 that is 3.11 to 3.13)
# TORCH_INDEX  where torch comes from: the URL of a pip index, or a folder of wheels (default: see install_torch)
set -euo pipefail
cd "$(dirname "$0")/.."

VENV=.venv
STAMP=$VENV/.setup-done
UNFINISHED=$VENV/.setup-unfinished
TORCH_PIN=2.13.0
TORCH_CPU_INDEX=https://download.pytorch.org/whl/cpu
CONSTRAINTS=scripts/constraints

say() { printf 'setup: %s\n' "$*" >&2; }
die() { say "error: $*"; exit 1; }

# Two `make`s at once wait for each other; where there is no flock (macOS) they must not be started together.
if command -v flock >/dev/null; then
  exec 9>.setup-lock
  flock 9
fi
[[ -e $STAMP && -z $(find pyproject.toml "$CONSTRAINTS" scripts/setup.sh -newer "$STAMP") ]] && exit 0

supported() { "$1" -c 'import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null; }

find_python() {
  local candidate
  for candidate in ${PYTHON:-python3 python3.13 python3.12 python3.11}; do
    if supported "$candidate"; then echo "$candidate"; return; fi
  done
  die "no Python 3.11 to 3.13 with venv found (tried: ${PYTHON:-python3 python3.13 python3.12 python3.11});" \
    "install one or set PYTHON"
}

# The version of an importable torch >= 2.11, or nothing.
torch_version() {
  "$1" - 2>/dev/null <<'PY' || true
import re
import torch
if tuple(map(int, re.match(r"(\d+)\.(\d+)", torch.__version__).groups())) >= (2, 11):
    print(torch.__version__)
PY
}

has_gpu() { command -v nvidia-smi >/dev/null && nvidia-smi -L 2>/dev/null | grep -q GPU; }

# Without compiling: all of torch takes half a minute, what is ever imported a few seconds (the last step below).
pip_install() { "$VENV/bin/python" -m pip install --disable-pip-version-check --no-input --no-compile $quiet "$@"; }

# Torch alone, without its dependencies: the second call installs those in one resolution with everything else.
install_torch() {
  if [[ -n ${TORCH_INDEX:-} ]]; then
    say "installing torch from TORCH_INDEX=$TORCH_INDEX"
    if [[ -d $TORCH_INDEX ]]; then
      pip_install --no-deps --no-index --find-links "$TORCH_INDEX" "torch>=2.11"
    else
      pip_install --no-deps --index-url "$TORCH_INDEX" "torch>=2.11"
    fi
  elif [[ $(uname -s) == Linux ]] && ! has_gpu; then
    say "no NVIDIA GPU here: installing the CPU build of torch $TORCH_PIN"
    pip_install --no-deps "torch==$TORCH_PIN+cpu" 2>/dev/null ||
      pip_install --no-deps --index-url "$TORCH_CPU_INDEX" --retries 1 --timeout 30 "torch==$TORCH_PIN" ||
      die "no CPU build of torch could be installed; set TORCH_INDEX to a pip index or a folder that has one," \
        "or PYTHON to an interpreter that can import torch"
  else
    say "installing torch $TORCH_PIN"
    pip_install --no-deps "torch==$TORCH_PIN"
  fi
}

# Pins for the torch that is there: all of them for ours, the common ones beside any other.
constraints_for() {
  "$VENV/bin/python" - "$1" "$TORCH_PIN" "$CONSTRAINTS" <<'PY'
import sys
from importlib.metadata import requires
version, pin, folder = sys.argv[1:]
brings_triton = any(requirement.startswith("triton") for requirement in requires("torch") or ())
if version.split("+")[0] != pin:
    print(f"{folder}/common.txt")
else:
    print(f"{folder}/{'cuda' if brings_triton else 'cpu'}.txt")
PY
}

quiet=
[[ -t 2 ]] || quiet="--quiet --progress-bar off"

python=$(find_python)
[[ -e $UNFINISHED ]] && { say "the last set-up was interrupted: starting $VENV afresh"; rm -rf "$VENV"; }
if [[ ! -x $VENV/bin/python ]]; then
  site_packages=
  [[ -n ${TORCH_INDEX:-} || -z $(torch_version "$python") ]] || site_packages=--system-site-packages
  say "making $VENV with $("$python" -V) (once; some minutes)"
  mkdir -p "$VENV"
  touch "$UNFINISHED"
  "$python" -m venv $site_packages "$VENV"
fi
rm -f "$STAMP"
version=$(torch_version "$VENV/bin/python")
if [[ -z $version ]]; then
  install_torch
  # Its dependencies are not there yet, so it cannot be imported: ask the metadata.
  version=$("$VENV/bin/python" -c 'from importlib.metadata import version; print(version("torch"))')
fi
say "installing momafuse and its other dependencies beside torch $version"
pip_install -c "$(constraints_for "$version")" "torch==$version" -e ".[dev]"
# Python keeps the compiled form of what it imports; here too where PYTHONDONTWRITEBYTECODE would forbid it later.
env -u PYTHONDONTWRITEBYTECODE "$VENV/bin/python" - <<'PY'
import datasets, hydra, hypothesis, matplotlib.figure, pytest, rich.progress, safetensors.torch, sentencepiece, wandb
import torch.distributed.checkpoint.state_dict
PY
rm -f "$UNFINISHED"
touch "$STAMP"
say "done"
