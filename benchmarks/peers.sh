#!/usr/bin/env bash
# Make what benchmarks/peers.py times: PYTHON=.venv/bin/python bash benchmarks/peers.sh FOLDER
# Random weights, and the peers with their copies of them; an hour on two cores, 8 GB. What is there
# is kept. Needs sts and openvino in $PYTHON, python3, cmake, ninja, and a C++ compiler.
set -u
here=$(cd "$(dirname "$0")" && pwd)
python=$(realpath -s "${PYTHON:-python3}")
genai=openvino-venv/bin
source=llama_cpp_python-0.3.36/vendor/llama.cpp
mkdir -p "$1/llama" && cd "$1" || exit
export HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false

step() { # RESULT: run the commands on stdin if it is not there; go on if they fail
    [ -e "$1" ] && return
    echo "peers.sh: $1 (log: $PWD/make-${1//\//-}.log)" >&2
    { echo "$shared"; cat; } | bash -e >"make-${1//\//-}.log" 2>&1 ||
        echo "peers.sh: $1 failed; what needs it is left out" >&2
}
shared="python='$python' here='$here' genai=$genai source=$source"

# The tower's names are those of the released LLaVA-1.5, which older versions of transformers read.
step model <<'END'
PYTHONPATH=$here/.. "$python" -m benchmarks.random_llava part --shape half
"$python" -c "from safetensors.torch import load_file, save_file
file, new = 'part/model.safetensors', 'vision_tower.vision_model.'
tensors = {n.replace(new, 'vision_tower.').replace('vision_tower.', new): t.clone()
           for n, t in load_file(file).items()}
save_file(tensors, file, {'format': 'pt'})"
mv part model
END
# OpenVINO GenAI and all converters. torchvision is made for another torch, and transformers fails.
step $genai/optimum-cli <<'END'
python3 -m venv openvino-venv
$genai/pip install torch==2.13.0 openvino-genai==2026.4.1.0 optimum-intel==2.2.0 nncf==3.4.0 \
    sentencepiece gguf pillow
$genai/pip uninstall -y torchvision
END
for precision in "int8" "int4 --group-size 64"; do
    step "openvino-${precision%% *}" <<END
$genai/optimum-cli export openvino -m model --task image-text-to-text \
    --weight-format $precision part-openvino
mv part-openvino openvino-${precision%% *}
END
done
# Qwen2.5-VL, which GenAI prunes, too. Its export needs a transformers that cannot read tokenizers.
step qwen/model <<'END'
PYTHONPATH=$here/.. "$python" -m benchmarks.random_qwen part-qwen
mkdir -p qwen
ln -sfn ../openvino-venv qwen/openvino-venv
mv part-qwen qwen/model
END
step qwen/libraries/transformers <<'END'
$genai/pip install --target qwen/libraries transformers==4.57.6 huggingface-hub==0.36.2 \
    tokenizers==0.22.2
END
for precision in "int8" "int4 --group-size 64"; do
    step "qwen/openvino-${precision%% *}" <<END
PYTHONPATH=qwen/libraries $genai/optimum-cli export openvino -m qwen/model \
    --task image-text-to-text --weight-format $precision part-openvino
$genai/convert_tokenizer qwen/model --with-detokenizer -o part-openvino
mv part-openvino qwen/openvino-${precision%% *}
END
done
step llama.cpp/bin/llama-mtmd-cli <<'END' # the chat keeps the last image's chunks, freed: a crash
python3 -m pip download --no-deps --no-binary llama-cpp-python llama-cpp-python==0.3.36
tar xzf llama_cpp_python-0.3.36.tar.gz
sed -i 's/^    ctx.bitmaps.entries.clear();/    ctx.mbatch.reset();\n&/' $source/tools/mtmd/mtmd-cli.cpp
cmake -S $source -B llama.cpp -G Ninja -DCMAKE_BUILD_TYPE=Release -DGGML_NATIVE=ON \
    -DLLAMA_BUILD_SERVER=OFF -DLLAMA_BUILD_UI=OFF -DLLAMA_BUILD_TESTS=OFF
cmake --build llama.cpp --target llama-mtmd-cli llama-quantize
END
step llama/Q4_K_M.gguf <<'END' # the converter does not know the tokenizer and asks for its kind
sed -i 's/raise NotImplementedError("BPE pre-tokenizer.*/res = "gpt-2"/' $source/conversion/base.py
$genai/python "$here/peer_split.py" model llama
$genai/python $source/convert_hf_to_gguf.py llama/text --outtype f16 --outfile llama/f16.gguf
$genai/python $source/tools/mtmd/legacy-models/convert_image_encoder_to_gguf.py -m llama/clip \
    --llava-projector llama/clip/llava.projector --output-dir llama --clip-model-is-vision
llama.cpp/bin/llama-quantize llama/f16.gguf llama/Q8_0.gguf Q8_0
llama.cpp/bin/llama-quantize llama/f16.gguf part.gguf Q4_K_M
mv part.gguf llama/Q4_K_M.gguf
END
