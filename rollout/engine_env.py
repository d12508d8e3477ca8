"""The environment a process needs before vLLM is imported in it. Importing this loads nothing; it sets nothing either.

vLLM reads most of these once, at import: put them into the environment of a fresh process (a Ray `runtime_env`).
"""

_ANY_DEVICE = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # the worker lives in the engine process: one child instead of two
    "VLLM_WORKER_MULTIPROC_METHOD": "spawn",  # a forked engine outlives a killed owner
    "VLLM_LOGGING_LEVEL": "ERROR",  # its warnings are a page per engine, on every start
    "TORCH_CPP_LOG_LEVEL": "ERROR",
    "VLLM_NO_USAGE_STATS": "1",
    "HF_HUB_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
}

NO_GPU = {"CUDA_VISIBLE_DEVICES": ""}
"""For who computes on CPUs: Ray hides no GPU from an actor that asks for none."""

KEEP_FREED_MEMORY = {
    "MALLOC_MMAP_THRESHOLD_": str(32 << 20),  # glibc takes no more
    "MALLOC_TRIM_THRESHOLD_": str(1 << 40),
}
"""Tensors on CPUs come and go, and fresh pages for each cost a fifth of a small model's time."""

ENGINE_ENV: dict[str, str] = (
    _ANY_DEVICE
    | NO_GPU
    | KEEP_FREED_MEMORY
    | {
        "TORCH_COMPILE_DISABLE": "1",  # otherwise the first log-prob compiles for 20 s and needs a C++ compiler
        "OMP_NUM_THREADS": "1",  # more threads than free cores spin against each other
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # the default binds every engine of a box to the same cores
    }
)
"""For an engine on CPU. It switches compilation off, which makes `eager: false` mean eager."""

CPU_HEAD_DIMS = (32, 64, 80, 96, 112, 128, 160, 192, 224, 256, 512)
"""Widths of an attention head that vLLM's CPU kernels take; with any other the engine dies at its first token."""

GPU_ENGINE_ENV: dict[str, str] = dict(_ANY_DEVICE)
"""For an engine on GPUs."""

SHARED_GPU_ENGINE_ENV: dict[str, str] = GPU_ENGINE_ENV | {"VLLM_ALLOW_INSECURE_SERIALIZATION": "1"}
"""For an engine that takes weights by CUDA-IPC: it unpickles the handles that its own run's learner sends."""
