# RLoop on NVIDIA GPUs, with official vLLM:  docker build -f deploy/docker/cuda.Dockerfile -t rloop-gpu:0.1.0 .
# Behind a mirror: --build-arg PIP_INDEX_URL=…. CUDA 13 comes with the pinned packages, the driver from the host
# (NVIDIA's container toolkit). Not built by us: linted only.
FROM python:3.11-slim-bookworm
# The compiler stays: Triton builds its kernels' launchers when they are first used.
RUN apt-get update \
    && apt-get install -y --no-install-recommends gcc libc6-dev libnuma1 \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --uid 1000 --create-home rloop \
    && install -d -o rloop -g rloop /runs /cache
WORKDIR /opt/rloop
ARG PIP_INDEX_URL
ENV REQUIREMENTS=requirements/gpu.txt
# The packages are a layer of their own, which changes of the code leave as it is.
COPY requirements requirements
COPY deploy/install.sh deploy/indexes.sh deploy/
RUN PACKAGES_ONLY=yes sh deploy/install.sh
COPY . .
RUN sh deploy/install.sh && ln -s /opt/rloop/.venv/bin/ray /opt/rloop/.venv/bin/rloop /usr/local/bin/
ENV PATH=/opt/rloop/.venv/bin:$PATH RAY_AUTH_MODE=token RAY_JOB_STOP_WAIT_TIME_S=80 RLOOP_CLUSTER__RUNS_DIR=/runs HF_HOME=/cache/huggingface \
    VLLM_CACHE_ROOT=/cache/vllm NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
USER 1000:1000
CMD ["rloop", "doctor"]
