#!/bin/sh
# All tests and benchmarks that need a GPU, in under 9 minutes: scripts/gpu_check.sh [NAME]
# Writes docs/results/gpu_NAME.md and .json (NAME is by default that of the GPU) from what each part left in runs/gpu_check.
# A part that fails or takes too long is reported as such, and the others go on. PATIENCE=3 gives each part three times as long.
# Models of the training steps are compiled beside the tests, which time nothing; the steps then find their kernels in the cache.
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
  name=$1 limit=$(($2 * ${PATIENCE:-1}))
  shift 2
  echo "gpu_check: $name (at most $limit s)"
  timeout -k 5 "$limit" "$@" >"$out/$name.txt" 2>&1
  echo $? >"$out/$name.code"
}

small="--size 90m --precision bf16 --set trainer.compile=true"
large="--size 435m --precision bf16 --accumulate 4 --set trainer.compile=true trainer.micro_batch=4"
few="moe_1t1i mot mod_dense" all="moe_1t1i moma_4t4i moe_8x mot mod_dense" # few: they fit in 80 GB together at 435m

timeout $((180 * ${PATIENCE:-1})) sh -c "
  $python scripts/bench_step.py moma_4t4i --rounds 1 $large
  $python scripts/bench_step.py moe_8x --rounds 1 $large
  $python scripts/bench_step.py $few --rounds 1 $large
  $python scripts/bench_step.py $all --rounds 1 $small
" >"$out/compile.txt" 2>&1 &
compiling=$!
part tests 150 "$python" -m pytest -m gpu tests -q --timeout 120
if command -v compute-sanitizer >/dev/null; then
  part sanitizer 30 compute-sanitizer --tool memcheck --error-exitcode 9 "$python" -m pytest -m gpu -q --timeout 25 \
    tests/kernels/triton -k "float64 and broken and bfloat16"
fi
wait "$compiling"
part experts 110 "$python" scripts/bench_experts.py --sizes 90m 435m 1_4b --experts 1 4 8 --skew 0 0.5 --dtypes bf16 \
  --rows 16384 --rounds 11 --out "$out/experts.json"
part rotary 15 "$python" scripts/bench_rotary.py
part order 35 "$python" scripts/bench_order.py --size 90m --precision bf16 --rounds 7 --out "$out/order.json"
part step_435m_4t4i 40 "$python" scripts/bench_step.py moma_4t4i --rounds 7 $large
part step_435m_8x 40 "$python" scripts/bench_step.py moe_8x --rounds 7 $large
part step_435m 50 "$python" scripts/bench_step.py $few --rounds 7 $large
part step_90m 50 "$python" scripts/bench_step.py $all --rounds 7 $small
"$python" scripts/gpu_report.py "$out" "$@"
