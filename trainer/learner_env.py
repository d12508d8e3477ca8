"""The environment that a learner rank's process on CPUs starts with. Importing this loads nothing."""

from rollout.engine_env import KEEP_FREED_MEMORY, NO_GPU

LEARNER_ENV = (NO_GPU | KEEP_FREED_MEMORY) | {
    "OMP_NUM_THREADS": "1",  # one core per rank
    "TOKENIZERS_PARALLELISM": "false",
}
