#!/usr/bin/env bash
# Puts the CPU build of vLLM into the tests' environment, beside the torch that is in it:
#   tests/vllm/install.sh [VENV]
# Packages come from where pip is configured to look. uv is ten times as fast but doesn't read pip's configuration, so
# it is told; where it fails all the same, pip does the work.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
python=$(cd "${1:-$here/../../.venv}" && pwd)/bin/python
export PIP_DISABLE_PIP_VERSION_CHECK=1
unset PYTHONDONTWRITEBYTECODE # three processes import vLLM for one engine, each from source otherwise

wanted=$("$python" -c 'import importlib.metadata as m; print(m.version("torch").split("+")[0])' 2>/dev/null) || wanted=none
if [ "$wanted" != 2.13.0 ]; then
    echo "this vLLM needs torch 2.13.0, the environment has $wanted: pip install -e '.[models,dev]' first" >&2
    exit 1
fi

# the words of one of pip's settings: the variable wins over the files
setting() {
    local variable=PIP_${1^^}
    variable=${variable//-/_}
    if [ -n "${!variable:-}" ]; then echo "${!variable}"; else "$python" -m pip config get "global.$1" 2>/dev/null || true; fi
}

with_uv() {
    local options=() word certificates
    for word in $(setting find-links); do options+=(--find-links "$word"); done
    for word in $(setting index-url); do options+=(--default-index "$word"); done
    for word in $(setting extra-index-url); do options+=(--index "$word"); done
    certificates=$(setting cert)
    if [ -n "$certificates" ]; then export SSL_CERT_FILE=$certificates; fi
    "$python" -m pip install --quiet --target "$scratch/uv" uv || return 1
    # like pip: the best version of all places
    "$scratch/uv/bin/uv" pip install --quiet --no-deps --index-strategy unsafe-best-match "${options[@]}" \
        --python "$python" --requirement "$here/requirements.txt"
}

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
if ! with_uv; then
    echo "uv can't install it here: with pip then"
    "$python" -m pip install --quiet --no-deps --requirement "$here/requirements.txt"
fi

site=$("$python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
cp "$here/torchvision_cpu_shim.py" "$site/clipmill_torchvision_cpu_shim.py"
echo 'import clipmill_torchvision_cpu_shim; clipmill_torchvision_cpu_shim.install()' >"$site/clipmill_torchvision_cpu_shim.pth"
VLLM_NO_USAGE_STATS=1 VLLM_LOGGING_LEVEL=ERROR "$python" - <<'PY'
import torchvision, transformers, vllm
from vllm.v1.engine.core import EngineCoreProc
from vllm.v1.engine.llm_engine import LLMEngine

print(f"vLLM {vllm.__version__}, transformers {transformers.__version__}")
PY
