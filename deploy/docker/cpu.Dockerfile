# RLoop on CPUs, with vLLM's CPU build:  docker build -f deploy/docker/cpu.Dockerfile -t rloop-cpu:0.1.0 .
# Behind a mirror: --build-arg PIP_INDEX_URL=… --build-arg PIP_FIND_LINKS=…. Not built by us: linted only.
FROM python:3.11-slim-bookworm AS build
RUN apt-get update \
    && apt-get install -y --no-install-recommends gcc libc6-dev \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /opt/rloop
ARG PIP_INDEX_URL PIP_FIND_LINKS
ENV REQUIREMENTS=requirements/cpu-hashes.txt
# The packages are a layer of their own, which changes of the code leave as it is.
COPY requirements requirements
COPY deploy/install.sh deploy/indexes.sh deploy/
RUN PACKAGES_ONLY=yes sh deploy/install.sh
COPY . .
RUN sh deploy/install.sh

FROM python:3.11-slim-bookworm
RUN apt-get update \
    && apt-get install -y --no-install-recommends libnuma1 \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --uid 1000 --create-home rloop \
    && install -d -o rloop -g rloop /runs /cache \
    && ln -s /opt/rloop/.venv/bin/ray /opt/rloop/.venv/bin/rloop /usr/local/bin/
COPY --from=build /opt/rloop /opt/rloop
ENV PATH=/opt/rloop/.venv/bin:$PATH RAY_AUTH_MODE=token RAY_JOB_STOP_WAIT_TIME_S=80 RLOOP_CLUSTER__RUNS_DIR=/runs HF_HOME=/cache/huggingface
USER 1000:1000
WORKDIR /opt/rloop
CMD ["rloop", "doctor"]
