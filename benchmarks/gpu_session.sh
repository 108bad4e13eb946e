#!/usr/bin/env bash
# One session on an NVIDIA GPU, from the repository's root: tests, measurements, comparison.
#   benchmarks/gpu_session.sh [first] [tests] [paper] [default] [half] [checkpointing] [compare] [speed]   (default: these)
#   benchmarks/gpu_session.sh compiled          steps under --compile, with and without CUDA graphs, beside plain ones
#   benchmarks/gpu_session.sh quantized compare  frozen weights in 8 and 4 bits, measured, timed, and beside what is predicted
#   benchmarks/gpu_session.sh loading           what loading preloaded features costs
#   benchmarks/gpu_session.sh every, benchmarks/gpu_session.sh every_paper     all methods: ten minutes each, then compare
#   WHEELS=.whl    a folder of wheels to install first, for a machine without a network: rich with its needs, filelock 3.30
#   RESULTS=DIR    where records go (default: .cache/gpu-session); what is to stay goes to results/measured/ by hand
#   OUT=DIR        gets all records in one file, measured.tgz
# Each part has a time limit, those of the first line together ten minutes, and a part cut off goes on where it stopped when
# called again.
set -uo pipefail
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-python3}
RESULTS=${RESULTS:-.cache/gpu-session}
export PYTHONUNBUFFERED=1

if [ -n "${WHEELS:-}" ]; then
    $PYTHON -m pip install -q --no-index --no-deps --no-compile --target /tmp/site "$WHEELS"/*.whl || exit 1
    export PYTHONPATH=/tmp/site${PYTHONPATH:+:$PYTHONPATH}
fi

status=0
part() { # name, seconds, command...
    local name=$1 limit=$2
    shift 2
    echo "== $name: $*" >&2
    local began=$SECONDS
    timeout "$limit" "$@" || { echo "== $name: ended with status $? (124: out of time)" >&2; status=1; }
    echo "== $name: $((SECONDS - began)) s" >&2
}
measure() { # name, seconds, options...
    local name=$1 limit=$2
    shift 2
    part "$name" "$limit" $PYTHON bench.py memory --measure --only-missing --results "$RESULTS" --format csv "$@"
}

PAPERS=(full linear lora vpt vpt_shallow adapter fpt fpt_plus)
for name in ${*:-first tests paper default half checkpointing compare speed}; do
    case $name in
    first) # what was never measured since it became lean
        measure first 45 --methods fpt fpt_plus --precision fp32 bf16 --attention eager sdpa --res 512 1024 ;;
    tests) part tests 105 $PYTHON -m pytest -q -m gpu tests/test_gpu.py ;;
    paper) measure paper 120 --methods "${PAPERS[@]}" --precision fp32 --attention eager --res 224 384 512 768 1024 ;;
    default) measure default 90 --methods "${PAPERS[@]}" --precision bf16 --attention sdpa --res 224 384 512 768 1024 ;;
    half) measure half 60 --methods "${PAPERS[@]}" --precision fp16 --attention eager sdpa --res 384 512 ;;
    checkpointing)
        measure checkpointing 60 --methods "${PAPERS[@]}" --precision fp32 bf16 fp16 --attention sdpa --res 384 1024 \
            --grad-checkpointing ;;
    compare) part compare 60 $PYTHON bench.py memory --compare --results "$RESULTS" --format csv ;;
    speed) part speed 60 $PYTHON -m benchmarks.speed.fpt --device cuda --parts steps extraction ;;
    compiled)
        part compiled 590 $PYTHON -m benchmarks.speed.compiled --device cuda --methods "${PAPERS[@]}" ;;
    quantized)
        for kind in int8 nf4; do
            measure quantized 200 --methods linear lora adapter fpt fpt_plus --precision fp32 bf16 --attention sdpa \
                --res 512 1024 --quantize $kind
        done
        part quantized 120 $PYTHON -m benchmarks.speed.savers --timed --device cuda --methods lora fpt --res 512 ;;
    loading) part loading 590 $PYTHON -m benchmarks.speed.loading --device cuda ;;
    # Every method at the papers' resolution, a call each.
    every) measure every 590 --methods all --precision bf16 --attention sdpa --res 512 ;;
    every_paper) measure every_paper 590 --methods all --precision fp32 --attention eager --res 512 ;;
    *)
        echo "part must be first, tests, paper, default, half, checkpointing, compare, speed, compiled, loading, quantized, every or every_paper, got '$name'" >&2
        exit 2 ;;
    esac
done
if [ -n "${OUT:-}" ] && [ -d "$RESULTS/measured" ]; then
    tar czf "$OUT/measured.tgz" -C "$RESULTS" measured || status=1
fi
exit $status
