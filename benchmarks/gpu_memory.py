"""What a learner rank takes of a GPU, by the formula of `trainer/memory.py`: models by options, on 8 and on 64 ranks.

    .venv/bin/python benchmarks/gpu_memory.py [--json FILE]

Micro-batches of 8,192 tokens. Nothing is measured; CUDA's context and fragmentation come on top.
"""

from report import Row, arguments, report

from trainer.memory import GIB, Shape, rank_memory

MODELS = {
    "1.5B": Shape(1_543_714_304, 28, 1536, 151_936, tied=True),
    "7B": Shape(7_615_616_512, 28, 3584, 152_064),
    "32B": Shape(32_763_876_352, 64, 5120, 152_064),
}
"""The dense models of the Qwen2.5 family."""
OPTIONS: dict[str, dict[str, int | bool]] = {
    "plain": {},
    "checkpointed": {"checkpointing": True},
    "checkpointed, 8-bit moments": {"checkpointing": True, "moment_bytes": 2},
}


def main() -> None:
    options = arguments("GPU memory of a learner rank, by formula").parse_args()
    rows = [
        Row(
            f"{model}, {ranks} ranks, {name}",
            rank_memory(shape, ranks, 8192, **given).total / GIB,
            "GiB",
            better="lower",
        )
        for model, shape in MODELS.items()
        for ranks in (8, 64)
        for name, given in OPTIONS.items()
    ]
    rows += [
        Row(
            f"{model}, 8 ranks, checkpointed, adapters of 1 %",
            rank_memory(shape, 8, 8192, True, adapter_parameters=shape.parameters // 100).total / GIB,
            "GiB",
            better="lower",
        )
        for model, shape in MODELS.items()
    ]
    report("GPU memory of a learner rank", rows, options.json)


if __name__ == "__main__":
    main()
