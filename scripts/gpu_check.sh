#!/bin/sh
# All tests and benchmarks that need a GPU, in under 9 minutes: scripts/gpu_check.sh [NAME]
# Writes docs/results/gpu_NAME.md and .json (NAME is by default that of the GPU) from what each part left in runs/gpu_check.
# A part that fails or takes too long is reported as such, and the others go on.
set -u
cd "$(dirname "$0")/.."
python=${PYTHON:-.venv/bin/python}
out=runs/gpu_check
if ! "$python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
  echo "gpu_check: error: torch finds no CUDA device; run it on a machine that has one (pip install torch, not its CPU build)" >&2
  exit 1
fi
export TRITON_INTERPRET=0 PYTHONPATH=.
rm -rf "$out"
mkdir -p "$out"

part() { # name, seconds, command: its output to $out/NAME.txt, its exit code to $out/NAME.code
  name=$1 limit=$2
  shift 2
  echo "gpu_check: $name (at most $limit s)"
  timeout -k 5 "$limit" "$@" >"$out/$name.txt" 2>&1
  echo $? >"$out/$name.code"
}

part tests 150 "$python" -m pytest -m gpu tests -q --timeout 120
if command -v compute-sanitizer >/dev/null; then
  part sanitizer 40 compute-sanitizer --tool memcheck --error-exitcode 9 "$python" -m pytest -m gpu -q --timeout 35 \
    tests/kernels/triton -k "float64 and broken and bfloat16"
fi
part experts 130 "$python" scripts/bench_experts.py --sizes 90m 435m 1_4b --experts 1 4 8 --skew 0 0.5 --dtypes bf16 \
  --rows 16384 --rounds 11 --out "$out/experts.json"
part rotary 15 "$python" scripts/bench_rotary.py
part order 40 "$python" scripts/bench_order.py --size 90m --precision bf16 --rounds 7 --out "$out/order.json"
part step_90m 55 "$python" scripts/bench_step.py moe_1t1i moma_4t4i moe_8x mot mod_dense --size 90m --precision bf16 --rounds 7
part step_435m 80 "$python" scripts/bench_step.py moma_4t4i --size 435m --precision bf16 --rounds 7 \
  --set trainer.micro_batch=4
"$python" scripts/gpu_report.py "$out" "$@"
