#!/bin/sh
# All tests and benchmarks that need a GPU: scripts/gpu_check.sh [tests] [speed] [sanitizer] [--name NAME]
#   tests      whether it is right: `pytest -m gpu` in several processes, the time to a run's first step; at most 4 minutes
#   speed      whether it is fast: experts, router, attention, rotation by device time, whole steps at 90m and 435m, a profile
#              by kernel; at most 5 minutes, compiling included
#   sanitizer  compute-sanitizer's memcheck over the kernels of the experts, where it is installed
# Without words: tests and speed. Each leaves what it found in runs/gpu_check and renews docs/results/gpu_NAME.md and .json
# (NAME is by default that of the GPU); a part that fails or takes too long is reported as such, and the others go on.
# PATIENCE=3 gives each part three times as long. A model is compiled layer by layer and all its layers are alike: caches are
# warmed by models of two layers, one process an experiment, before anything is timed.
set -u
cd "$(dirname "$0")/.."
python=${PYTHON:-.venv/bin/python}
out=runs/gpu_check
words="" name=""
while [ $# -gt 0 ]; do
  case $1 in
  tests | speed | sanitizer) words="$words $1" ;;
  --name) name=${2:?--name: give a name}; shift ;;
  *) sed -n '2,10s/^# \{0,1\}//p' "$0"; case $1 in -h | --help) exit 0 ;; *) exit 2 ;; esac ;;
  esac
  shift
done
if ! "$python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
  echo "gpu_check: error: torch finds no CUDA device; run it on a machine that has one (pip install torch, not its CPU build)" >&2
  exit 1
fi
export TRITON_INTERPRET=0 PYTHONPATH=. TORCHINDUCTOR_COMPILE_THREADS=2
mkdir -p "$out"

part() { # name, seconds, command: its output to $out/NAME.txt, its exit code to $out/NAME.code
  part=$1 limit=$(($2 * ${PATIENCE:-1}))
  shift 2
  echo "gpu_check: $part (at most $limit s)"
  timeout -k 5 "$limit" "$@" >"$out/$part.txt" 2>&1
  echo $? >"$out/$part.code"
}

step="scripts/bench_step.py --precision bf16"
small="--size 90m --set trainer.micro_batch=4" large="--size 435m --set trainer.micro_batch=4" # 4 of 4,096 tokens; --set comes last
few="moe_1t1i mot mod_dense" # beside dense they fit in 80 GB together at 435m
all="moe_1t1i moma_4t4i moe_8x mot mod_dense"

tests() {
  part tests 145 "$python" -m pytest -m gpu tests -q -n 8 --timeout 140
  first="$python scripts/time_to_first_step.py +experiment=moma_4t4i size=435m router.pool=1 trainer.micro_batch=4"
  first="$first trainer.global_batch=4 trainer.eval_sequences=1"
  part first_step_cold 60 $first # prepares the corpus and compiles
  part first_step 35 $first
}

speed() {
  part warm 75 sh -c "for documents in 1 12; do
    for words in '$small' '$large'; do for name in dense $all; do
      $python $step \$name --profile --documents \$documents \$words model.n_layers=2 --out /dev/null &
    done; done
    wait
  done"
  part experts 35 "$python" scripts/bench_experts.py --sizes 90m 435m 1_4b --dtypes bf16 --rows 16384 --rounds 3 \
    --backends bmm grouped_mm triton --out "$out/experts.json"
  part attention 15 "$python" scripts/bench_attention.py --rounds 3
  part rotary 8 "$python" scripts/bench_rotary.py --rounds 3
  part step_435m_4t4i 25 "$python" $step moma_4t4i --rounds 4 --accumulate 4 $large
  part step_435m_4t4i_long 35 "$python" $step moma_4t4i --rounds 2 --accumulate 16 --documents 12 $large
  part step_435m_8x 22 "$python" $step moe_8x --rounds 3 --accumulate 4 $large
  part step_435m 28 "$python" $step $few --rounds 3 --accumulate 4 $large
  part step_90m 30 "$python" $step $all --rounds 4 --accumulate 4 $small
  part profile 25 "$python" $step dense moma_4t4i --profile --accumulate 2 $large
}

sanitizer() {
  part sanitizer 120 compute-sanitizer --tool memcheck --error-exitcode 9 "$python" -m pytest -m gpu -q --timeout 110 \
    tests/kernels/triton -k "float64 and broken and bfloat16"
}

for word in ${words:-tests speed}; do $word; done
"$python" scripts/gpu_report.py "$out" $name
