#!/usr/bin/env bash
# Runs the fast tests beside another torch: scripts/check_torch.sh VERSION [pytest options]
#   scripts/check_torch.sh 2.11.0              the oldest that momafuse supports
#   scripts/check_torch.sh 2.11.0 tests/models
# Makes the environment .torch/VERSION, with our pins for everything but torch, and leaves it there for the next time. The last
# line sums up: torch, triton, numpy, Python, and how many tests passed and failed. The exit code is that of the tests.
#
# PYTHON       the interpreter to build on (default: python3)
# TORCH_INDEX  where torch comes from: the URL of a pip index (default: pip's own)
# JOBS         how many processes test (default: 2)
set -euo pipefail
cd "$(dirname "$0")/.."

case ${1:-} in
  -h | --help) sed -n '2,10s/^# \{0,1\}//p' "$0"; exit 0 ;;
  [0-9]*.[0-9]*) version=$1; shift ;;
  *) sed -n '2,10s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
esac
folder=.torch/$version
python=$folder/bin/python
pins=.torch/$version.txt
install() { "$python" -m pip install --disable-pip-version-check --no-input --quiet --progress-bar off "$@"; }

if [[ ! -e $folder/ready ]]; then
  rm -rf "$folder"
  mkdir -p .torch
  "${PYTHON:-python3}" -m venv "$folder"
  echo "check_torch: installing torch $version (its CUDA build takes some GB)" >&2
  if ! install ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} "torch==$version"; then
    echo "check_torch: error: torch $version cannot be installed; see above, or set TORCH_INDEX to a pip index that has it" >&2
    rm -rf "$folder"
    exit 1
  fi
  sed '/^setuptools==/d' scripts/constraints/common.txt > "$pins"  # torch asks for its own; nothing else here needs it
  # The interpreter of Triton up to 3.6, which tests run kernels in, assigns what NumPy 2.4 refuses; on a GPU it is not used.
  triton=$("$python" -m pip list --disable-pip-version-check --format freeze | sed -n 's/^triton==//p')
  case $triton in
    3.[0-6].*) sed -i 's/^numpy==.*/numpy<2.4/' "$pins" ;;
  esac
  install -c "$pins" "torch==$version" ${triton:+"triton==$triton"} -e ".[dev]"
  touch "$folder/ready"
fi

log=.torch/$version.log
status=0
"$python" -m pytest -n "${JOBS:-2}" -q "$@" 2>&1 | tee "$log" || status=$?
"$python" - "$(tail -n 1 "$log")" <<'PY'
import platform, sys
import numpy, torch, triton
versions = f"torch {torch.__version__}, triton {triton.__version__}, numpy {numpy.__version__}, Python {platform.python_version()}"
print(f"check_torch: {versions}: {sys.argv[1].strip('= ')}")
PY
exit $status
