#!/bin/sh
# Makes the environment in which `onnxruntime` is onnxruntime-training, and runs its tests there.
# PYTHON names the interpreter (onnxruntime-training has wheels up to Python 3.12). Arguments go to pytest.
set -eu
root=$(cd "$(dirname "$0")/../../.." && pwd)
environment=$root/.venv-ort-training
stamp=$environment/.installed
constraints=$root/tests/export/ort_training/constraints.txt

if [ ! -e "$stamp" ] || [ "$constraints" -nt "$stamp" ] || [ "$root/constraints.txt" -nt "$stamp" ] ||
    [ "$root/pyproject.toml" -nt "$stamp" ]; then
    rm -rf "$environment"
    "${PYTHON:-python3}" -m venv "$environment"
    "$environment/bin/python" -m pip install --quiet --upgrade pip
    "$environment/bin/python" -m pip install --quiet --constraint "$constraints" \
        --editable "$root[lowering,ort-training]" pytest pytest-timeout
    touch "$stamp"
fi
cd "$root"
exec "$environment/bin/python" -m pytest -q tests/export/ort_training tests/export/engines tests/benchmarks/rivals "$@"
