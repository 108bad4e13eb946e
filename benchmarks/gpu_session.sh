#!/usr/bin/env bash
# One session on an NVIDIA GPU, from the repository's root: tests, measurements, comparison.
#   benchmarks/gpu_session.sh [tests] [paper] [default] [half] [checkpointing] [compare] [speed]      (all parts by default)
#   WHEELS=.whl    a folder of wheels to install first, for a machine without a network: rich with its needs, filelock 3.30
#   RESULTS=DIR    where records go (default: .cache/gpu-session); what is to stay goes to results/measured/ by hand
#   OUT=DIR        gets all records in one file, measured.tgz
# Each part has a time limit, together below ten minutes, and a part cut off goes on where it stopped when called again.
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

for name in ${*:-tests paper default half checkpointing compare speed}; do
    case $name in
    tests) part tests 120 $PYTHON -m pytest -q -m gpu tests/test_gpu.py ;;
    paper) measure paper 120 --precision fp32 --attention eager --res 224 384 512 768 1024 ;;
    default) measure default 90 --precision bf16 --attention sdpa --res 224 384 512 768 1024 ;;
    half) measure half 60 --precision fp16 --attention eager sdpa --res 384 512 ;;
    checkpointing)
        measure checkpointing 60 --precision fp32 bf16 fp16 --attention sdpa --res 384 1024 --grad-checkpointing ;;
    compare) part compare 80 $PYTHON bench.py memory --compare --results "$RESULTS" --format csv ;;
    speed) part speed 60 $PYTHON -m benchmarks.speed.fpt --device cuda --parts steps loading extraction ;;
    *)
        echo "part must be tests, paper, default, half, checkpointing, compare or speed, got '$name'" >&2
        exit 2 ;;
    esac
done
if [ -n "${OUT:-}" ] && [ -d "$RESULTS/measured" ]; then
    tar czf "$OUT/measured.tgz" -C "$RESULTS" measured || status=1
fi
exit $status
