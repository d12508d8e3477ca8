"""The environment that a learner rank's process starts with, where it computes on CPUs. Imports nothing."""

LEARNER_ENV = {
    "OMP_NUM_THREADS": "1",  # one core per rank
    "TOKENIZERS_PARALLELISM": "false",
    # glibc keeps what is freed: activations come and go, and fresh pages cost a fifth of a small model's step.
    "MALLOC_MMAP_THRESHOLD_": str(32 << 20),  # it takes no more
    "MALLOC_TRIM_THRESHOLD_": str(1 << 40),
}
