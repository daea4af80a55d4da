# syntax=docker/dockerfile:1
# docker build -t sts .                       CPU, with OpenVINO
# docker build -t sts:cuda --target cuda .    NVIDIA GPU
# docs/install.md says how to run them.
ARG PYTHON=3.12

FROM python:${PYTHON}-slim AS build
RUN pip install --no-cache-dir uv
# Bytecode is compiled here: the user of the image may write none, and each start would pay
ENV UV_LINK_MODE=copy UV_NO_CACHE=1 UV_PYTHON_DOWNLOADS=never UV_COMPILE_BYTECODE=1
RUN uv venv /opt/sts
WORKDIR /src
# Dependencies come first: they stay as they are when only sts changes
COPY pyproject.toml .

# The CPU build of PyTorch lies on its own index; --build-arg TORCH_INDEX= takes the package index's
FROM build AS build-cpu
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
RUN uv pip install --python /opt/sts torch ${TORCH_INDEX:+--index-url "$TORCH_INDEX"}
RUN uv pip install --python /opt/sts -r pyproject.toml \
    --extra openvino --extra html --extra parquet --extra heic --extra smolvlm
COPY . .
RUN uv pip install --python /opt/sts --no-deps .

# The package index's PyTorch for Linux has CUDA
FROM build AS build-cuda
RUN uv pip install --python /opt/sts -r pyproject.toml \
    --extra html --extra parquet --extra heic --extra smolvlm
COPY . .
RUN uv pip install --python /opt/sts --no-deps .

FROM python:${PYTHON}-slim AS base
RUN useradd --create-home --uid 1000 sts \
    && install -d -o sts -g sts -m 1777 /work /models /cache
# HOME is for users of any number, whom `--user` names and who have no home
ENV PATH=/opt/sts/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    HOME=/cache \
    HF_HUB_OFFLINE=1 \
    HF_HOME=/cache/huggingface \
    XDG_CACHE_HOME=/cache \
    STS_MODEL=demo
COPY samples /demo
USER sts
WORKDIR /work
VOLUME ["/models", "/cache"]
ENTRYPOINT ["sts"]
CMD ["--help"]

FROM base AS cuda
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
COPY --from=build-cuda /opt/sts /opt/sts

# The last stage is what `docker build .` makes
FROM base AS cpu
COPY --from=build-cpu /opt/sts /opt/sts
