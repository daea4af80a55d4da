#!/usr/bin/env bash
# Make what benchmarks/peers.py times, in FOLDER: a checkpoint with random weights, and the peers
# with their own copies of it. An hour on two cores and 8 GB; what is there already is kept.
#
#     PYTHON=.venv/bin/python bash benchmarks/peers.sh FOLDER
#
# Needs the packages of `sts-cli[openvino]` in $PYTHON; python3, cmake, ninja and a C++ compiler.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
python=$(realpath -s "${PYTHON:-python3}")
mkdir -p "$1" && cd "$1"
export HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false
genai=openvino-venv/bin/python
source=llama_cpp_python-0.3.36/vendor/llama.cpp

checkpoint() { # with the tower's names as the released LLaVA-1.5 has them: older versions read those
    PYTHONPATH=$here/.. "$python" -m benchmarks.random_llava part-model --shape half
    "$python" - part-model/model.safetensors <<'END'
import sys
from safetensors.torch import load_file, save_file
old, new = "vision_tower.", "vision_tower.vision_model."
tensors = {name.replace(new, old).replace(old, new): t for name, t in load_file(sys.argv[1]).items()}
save_file({name: tensor.clone() for name, tensor in tensors.items()}, sys.argv[1], {"format": "pt"})
END
    mv part-model model
}

environment() { # of OpenVINO GenAI and of all converters; torchvision here is another torch's
    python3 -m venv openvino-venv
    "$genai" -m pip install -q torch==2.13.0 openvino-genai==2026.4.1.0 optimum-intel==2.2.0 \
        nncf==3.4.0 sentencepiece gguf pillow
    "$genai" -m pip uninstall -q -y torchvision
}

export_openvino() { # PRECISION OPTIONS
    rm -rf part-openvino
    openvino-venv/bin/optimum-cli export openvino -m model --task image-text-to-text \
        --weight-format "$@" part-openvino
    mv part-openvino "openvino-$1"
}

build_llama() { # the sources come with llama-cpp-python
    python3 -m pip download -q --no-deps --no-binary llama-cpp-python llama-cpp-python==0.3.36
    tar xzf llama_cpp_python-0.3.36.tar.gz
    cmake -S "$source" -B llama.cpp -G Ninja -DCMAKE_BUILD_TYPE=Release -DGGML_NATIVE=ON \
        -DLLAMA_BUILD_SERVER=OFF -DLLAMA_BUILD_UI=OFF -DLLAMA_BUILD_TESTS=OFF
    cmake --build llama.cpp --target llama-mtmd-cli llama-quantize
}

convert_llama() { # the tokenizer is unknown to the converter, which then asks for its kind
    sed -i 's/raise NotImplementedError("BPE pre-tokenizer was not.*/res = "gpt-2"/' \
        "$source/conversion/base.py"
    "$genai" "$here/split_llava.py" model llama
    "$genai" "$source/convert_hf_to_gguf.py" llama/text --outtype f16 --outfile llama/f16.gguf
    "$genai" "$source/tools/mtmd/legacy-models/convert_image_encoder_to_gguf.py" -m llama/clip \
        --llava-projector llama/clip/llava.projector --output-dir llama --clip-model-is-vision
    for kind in Q8_0 Q4_K_M; do
        llama.cpp/bin/llama-quantize llama/f16.gguf "part-$kind.gguf" "$kind"
        mv "part-$kind.gguf" "llama/$kind.gguf"
    done
}

step() { # RESULT COMMAND...: run a command whose result is not there; go on if it fails
    [ -e "$1" ] && return
    echo "peers.sh: ${*:2} (log: $PWD/${1//\//-}.log)" >&2
    # in a shell of its own: `set -e` counts for nothing in a condition
    (set -e; "${@:2}") >"${1//\//-}.log" 2>&1 &
    wait $! || echo "peers.sh: ${*:2} failed; the peers that need it are left out" >&2
}

step model checkpoint
step openvino-venv/bin/optimum-cli environment
step openvino-int8 export_openvino int8
step openvino-int4 export_openvino int4 --group-size 64
step llama.cpp/bin/llama-mtmd-cli build_llama
step llama/Q4_K_M.gguf convert_llama
