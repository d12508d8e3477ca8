"""Whether the learner can take a model: builds it without memory for parameters and finds its tensors, nothing more.

A process of its own, for whoever asks should not have to import torch: `python -m trainer.trial_build MODEL_DIR` prints
why not, and ends with 3; it ends with 0 when it can.
"""

import sys
from pathlib import Path

import torch

from trainer.loading import empty_policy
from trainer.packable import REFUSED
from trainer.stored_names import parts_of
from trainer.stored_tensors import StoredTensors


def main(model_dir: Path) -> int:
    """Returns the exit code."""
    try:
        policy = empty_policy(model_dir, "sdpa", "float32", torch.device("cpu"))
        parts_of(policy.lm, StoredTensors(model_dir))
    except (ValueError, KeyError) as error:
        print(" ".join(str(error).split()))
        return REFUSED
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
