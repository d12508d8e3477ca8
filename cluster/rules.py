"""What must hold between sections: rule, values and way out. Pure arithmetic on the configuration; reads no files.

A broken rule is refused. Advice is for what works but wastes time; nothing is refused for being slow.
AReaL's admission, capacity = min(max_concurrent − running, (η + v + 1)·B − (accepted + running)), cannot deadlock
for η ≥ 0: at version v it always lets (v + 1)·B groups be accepted, and a finished group frees its slot.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from rollout.config import DataConfig, EvalConfig, RolloutConfig
from rollout.countdown_sets import HARDER_NUMBERS
from rollout.problem_files import HELD_OUT
from trainer.advantages.catalogue import ADVANTAGE_NAMES, TOKEN_REWARDS
from trainer.config import CriticConfig, ImportanceConfig, ModelConfig, RLConfig, ScheduleConfig, TrainerConfig
from trainer.losses.options import LOSS_NAMES

if TYPE_CHECKING:
    from cluster.config import RunConfig


def broken_rules(config: "RunConfig") -> list[str]:
    """A sentence per rule that the configuration breaks."""
    return [
        *_lengths(config.rollout),
        *_batches(config.rollout, config.trainer),
        *_rounds(config),
        *_objective(config.trainer.rl, config.rollout),
        *_adapters(config.trainer),
        *_evaluation(config.eval, config.schedule.end.overfit_metric),
        *_schedule(config),
        *_model(config.model),
        *_task(config),
        *_layout(config),
    ]


def _lengths(rollout: RolloutConfig) -> Iterator[str]:
    if rollout.context_length <= rollout.max_new_tokens:
        yield (
            f"rollout.context_length must exceed rollout.max_new_tokens, got {rollout.context_length} and "
            f"{rollout.max_new_tokens}: no room for a prompt; raise the first or lower the second"
        )


def _batches(rollout: RolloutConfig, trainer: TrainerConfig) -> Iterator[str]:
    groups, minibatches, ranks = rollout.groups_per_step, trainer.rl.minibatches, trainer.ranks
    if groups % minibatches:
        yield (
            f"rollout.groups_per_step must be divisible by trainer.rl.minibatches, got {groups} and {minibatches}; "
            f"use {_multiples(groups, minibatches)} groups"
        )
    elif groups // minibatches * rollout.group_size < ranks:
        yield (
            f"a minibatch must hold a sequence for every rank, got {groups // minibatches * rollout.group_size} "
            f"sequences and trainer.ranks={ranks}; raise rollout.groups_per_step or lower trainer.ranks"
        )
    sizes = {
        "rollout.groups_per_step × rollout.group_size": groups * rollout.group_size,
        "trainer.rft.batch_size": trainer.rft.batch_size,
        "trainer.warmup.batch_size": trainer.warmup.batch_size,
    }
    for name, size in sizes.items():
        if size % ranks:
            yield f"{name} must be divisible by trainer.ranks, got {size} and {ranks}; use {_multiples(size, ranks)}"


def _rounds(config: "RunConfig") -> Iterator[str]:
    rollout, timeout_s = config.rollout, config.actors.lease_timeout_s
    if rollout.oversample > 1 and rollout.max_staleness < 1:
        yield (
            f"rollout.oversample above 1 needs rollout.max_staleness of at least 1, got {rollout.oversample:g} and "
            f"{rollout.max_staleness:g}: an interrupted answer is one version old when it goes on"
        )
    if rollout.report_every_s > timeout_s / 3:
        yield (
            f"rollout.report_every_s must be at most a third of actors.lease_timeout_s, got "
            f"{rollout.report_every_s:g} and {timeout_s:g}: reports are what keeps a lease"
        )
    if rollout.deterministic and (rollout.max_staleness >= 1 or config.trainer.ranks > 1):
        yield (
            f"rollout.deterministic needs rollout.max_staleness=0 and trainer.ranks=1, got "
            f"{rollout.max_staleness:g} and {config.trainer.ranks}: with others the order of events decides"
        )
    if rollout.deterministic and rollout.engine.kv_on_update != "keep":
        yield (
            "rollout.deterministic needs rollout.engine.kv_on_update=keep: what is computed again rounds differently"
        )


def _objective(rl: RLConfig, rollout: RolloutConfig) -> Iterator[str]:
    """Settings that would be accepted and do nothing."""
    if rl.kl.in_reward and not rl.kl.weight:
        yield "trainer.rl.kl.in_reward=true needs trainer.rl.kl.weight above 0, got 0; set a weight, or in_reward=false"
    if rl.kl.in_reward and rl.advantage in ADVANTAGE_NAMES and rl.advantage not in TOKEN_REWARDS:
        yield (
            f"trainer.rl.kl.in_reward=true needs an advantage of rewards per token ({', '.join(TOKEN_REWARDS)}), got "
            f"{rl.advantage}, which has one per answer; take one of those, or in_reward=false (KL in the loss)"
        )
    if rl.dual_clip is not None and rl.loss in LOSS_NAMES and rl.loss != "ppo":
        yield f"trainer.rl.dual_clip is for trainer.rl.loss=ppo, got {rl.loss}; set dual_clip=null"
    if rl.importance.floor and rl.importance.mode in ("none", "tis", "sequence_tis"):
        yield (
            f"trainer.rl.importance.floor is for modes that drop, got {rl.importance.floor:g} with "
            f"mode={rl.importance.mode}; use icepop, sequence_mask or geometric_mask, or floor=0"
        )
    if rl.critic != CriticConfig() and rl.advantage in ADVANTAGE_NAMES and not rl.has_critic:
        yield "trainer.rl.critic does nothing without trainer.rl.advantage=gae; set that, or leave critic out"
    if rl.proximal_alpha != RLConfig().proximal_alpha and rl.proximal == "recompute":
        yield (
            "trainer.rl.proximal_alpha does nothing without trainer.rl.proximal=loglinear or linear; set that, or "
            "leave proximal_alpha out"
        )
    if rl.importance.mode == "none" and rl.importance.cap != ImportanceConfig().cap:
        yield "trainer.rl.importance.cap does nothing with mode=none; set a mode, or leave cap out"
    if rl.overlong_tokens > rollout.max_new_tokens:
        yield (
            f"trainer.rl.overlong_tokens must be at most rollout.max_new_tokens, got {rl.overlong_tokens} and "
            f"{rollout.max_new_tokens}; every answer would be punished"
        )


def _adapters(trainer: TrainerConfig) -> Iterator[str]:
    if trainer.lora.targets and not trainer.lora.rank:
        yield "trainer.lora.targets needs trainer.lora.rank above 0, got 0; set a rank, or targets=[]"


def _evaluation(evaluation: EvalConfig, overfit_metric: str | None) -> Iterator[str]:
    if not evaluation.ks:
        yield "eval.ks must not be empty; use [1] for plain accuracy"
    for k in evaluation.ks:
        if not 1 <= k <= evaluation.samples:
            yield (
                f"every k of eval.ks must be between 1 and eval.samples, got {k} and {evaluation.samples}; "
                "pass@k is estimated from k or more answers: lower k or raise eval.samples"
            )

    metrics = {f"{name}@{k}" for name in ("pass", "maj", "worst") for k in evaluation.ks}
    metrics.add(f"avg@{evaluation.samples}")
    for key, name in (("eval.best_by", evaluation.best_by), ("schedule.end.overfit_metric", overfit_metric)):
        if name is not None and name.rpartition("/")[2] not in metrics:
            yield (
                f"{key} must be a metric of the evaluation (or SET/metric), got {name!r}; there are "
                f"{', '.join(sorted(metrics))}"
            )
    if evaluation.keep_best and not evaluation.every_steps:
        yield "eval.keep_best is for evaluations in the middle of a phase; set eval.every_steps, or keep_best=false"


def _schedule(config: "RunConfig") -> Iterator[str]:
    schedule, evaluation = config.schedule, config.eval
    if schedule.scheduler == "merge" and config.trainer.lora.rank:
        yield (
            f"schedule.scheduler=merge needs trainer.lora.rank=0, got {config.trainer.lora.rank}: the average of "
            "adapters is not the adapter of the average"
        )
    if schedule.merge_share != ScheduleConfig().merge_share and schedule.scheduler != "merge":
        yield f"schedule.merge_share is for schedule.scheduler=merge, got {schedule.scheduler}; leave merge_share out"
    if schedule.end.overfit_gap is not None and not evaluation.every_steps:
        yield (
            "schedule.end.overfit_gap needs evaluations in the middle of a phase; set eval.every_steps, to about a "
            "tenth of the phase"
        )
    if evaluation.every_steps and evaluation.overlap and config.rollout.deterministic:
        yield "rollout.deterministic needs eval.overlap=false: what sampled an answer would be a matter of timing"


def _model(model: ModelConfig) -> Iterator[str]:
    heads, kv_heads = model.scratch.num_heads, model.scratch.num_kv_heads
    if model.path is None and heads % kv_heads:
        divisors = [n for n in range(1, heads + 1) if heads % n == 0]
        yield (
            f"model.scratch.num_heads must be divisible by model.scratch.num_kv_heads, got {heads} and {kv_heads}; "
            f"use one of {', '.join(map(str, divisors))} key/value heads"
        )


def _sources(data: DataConfig) -> Iterator[str]:
    if data.path is None and not data.sources:
        yield "data.path must be set when data.task=file; add data.path=PROBLEMS.jsonl (or .parquet)"
    if data.path is not None and data.sources:
        yield f"data.path is the short form of one source, got {data.path} beside data.sources; leave one of them out"
    weighted = [source.weight is not None for source in data.sources]
    if any(weighted) and not all(weighted):
        bare = next(source.called for source in data.sources if source.weight is None)
        yield (
            f"data.sources must all have a weight or none, got none for {bare!r}; without weights each counts by its "
            "number of problems"
        )
    names = [*(source.called for source in data.sources), *data.eval_sets]
    for name in {name for name in names if names.count(name) > 1}:
        yield f"data.sources and data.eval_sets need names of their own, got {name!r} twice; set the name of a source"
    for name in (source.called for source in data.sources):
        if not name or "/" in name or name == HELD_OUT:
            yield f"a source needs a name without '/', other than {HELD_OUT!r}, got {name!r}; set its name"


def _task(config: "RunConfig") -> Iterator[str]:
    data, scratch = config.data, config.model.path is None
    if data.task == "file":
        yield from _sources(data)
        if scratch and config.model.scratch.tokenizer == "countdown":
            yield (
                "model.scratch.tokenizer=countdown knows 19 characters and cannot read data.task=file; "
                "set model.path, or model.scratch.tokenizer=bytes"
            )
        for name in data.eval_sets:
            if not name or "/" in name or name == HELD_OUT:
                yield (
                    f"a set of data.eval_sets must have a name without '/', other than {HELD_OUT!r} (that of "
                    f"data.eval_path), got {name!r}; call it otherwise"
                )
        if config.schedule.warmup_demos:
            yield (
                f"schedule.warmup_demos needs data.task=countdown, which makes its own demonstrations, got "
                f"{config.schedule.warmup_demos} with data.task=file; set it to 0"
            )
        return
    if config.verifier.name == "math" or config.verifier.name == "exact":
        yield (
            f"data.task=countdown must be scored by verifier.name=countdown, got {config.verifier.name!r}: "
            "it would call every answer wrong; set verifier.name=countdown"
        )
    for key, numbers in (
        ("train_numbers", data.countdown.train_numbers),
        ("eval_numbers", data.countdown.eval_numbers),
    ):
        if not numbers or any(not 3 <= n <= 5 for n in numbers):
            yield f"data.countdown.{key} must list sizes from 3 to 5, got {list(numbers)}; use e.g. [3, 4]"
    if data.eval_sets:
        yield "data.eval_sets is for data.task=file, data.task=countdown makes its own; set it to {}"
    if data.countdown.harder_problems and max(data.countdown.train_numbers, default=0) >= HARDER_NUMBERS:
        yield (
            f"data.countdown.harder_problems have {HARDER_NUMBERS} numbers, more than those of training, got "
            f"train_numbers={list(data.countdown.train_numbers)}; use e.g. [3, 4], or harder_problems=0"
        )
    if config.schedule.warmup_demos and not scratch:
        yield (
            f"schedule.warmup_demos is for models made from scratch, got {config.schedule.warmup_demos} with "
            f"model.path={config.model.path}; set schedule.warmup_demos=0 or model.path=null"
        )


def _layout(config: "RunConfig") -> Iterator[str]:
    """What sharing GPUs asks for."""
    actors, ranks, transport = config.actors, config.trainer.ranks, config.actors.weight_transport
    if config.cluster.layout == "disaggregated":
        if transport == "ipc":
            yield "actors.weight_transport=ipc needs cluster.layout=colocated: both on one GPU; use auto"
        return
    if actors.rollout_workers != ranks:
        yield (
            f"cluster.layout=colocated needs actors.rollout_workers = trainer.ranks, got {actors.rollout_workers} and "
            f"{ranks}: an engine sits on the GPU of each rank; set both to the number of GPUs"
        )
    if (most := actors.max_rollout_workers) not in (None, actors.rollout_workers):
        yield f"cluster.layout=colocated has a worker per rank, got actors.max_rollout_workers={most}; leave it out"
    if (size := config.rollout.engine.tensor_parallel) > 1:
        yield f"cluster.layout=colocated needs rollout.engine.tensor_parallel=1, got {size}; use 1, or disaggregated"
    if config.rollout.engine.kv_cache_mb is None:
        yield (
            "cluster.layout=colocated needs rollout.engine.kv_cache_mb, got null: the engine would leave the learner "
            "rank nothing; set what the rank leaves of the GPU, e.g. 16384"
        )
    if transport == "nccl":
        yield "actors.weight_transport=nccl needs cluster.layout=disaggregated: NCCL connects different GPUs; use auto"


def _multiples(size: int, divisor: int) -> str:
    """The nearest multiples of `divisor` around `size`."""
    below = size // divisor * divisor
    return f"{below} or {below + divisor}" if below else str(divisor)


def advice(config: "RunConfig") -> list[str]:
    """A sentence per setting that works but wastes something."""
    rollout, workers = config.rollout, config.actors.rollout_workers
    slots = rollout.max_concurrent * workers
    ahead = int((rollout.max_staleness + 1) * rollout.groups_per_step)
    sentences = []
    if rollout.max_concurrent * rollout.group_size > rollout.engine.max_num_seqs:
        sentences.append(
            f"rollout.max_concurrent × group_size = {rollout.max_concurrent * rollout.group_size} answers queue for "
            f"{rollout.engine.max_num_seqs} engine slots (rollout.engine.max_num_seqs); queued answers age"
        )
    if slots < rollout.groups_per_step:
        sentences.append(
            f"{slots} groups in flight (max_concurrent × workers) are fewer than groups_per_step="
            f"{rollout.groups_per_step}: a step is generated in {-(-rollout.groups_per_step // slots)} waves"
        )
    elif slots > ahead:
        sentences.append(
            f"{slots} groups in flight (max_concurrent × workers) are never reached: max_staleness="
            f"{rollout.max_staleness:g} admits {ahead} at once"
        )
    rl = config.trainer.rl
    if rl.loss == "gspo" and rl.clip_high > 0.05:
        sentences.append(
            f"trainer.rl.clip_high={rl.clip_high:g} is PPO's: the ratio of gspo is a geometric mean, which hardly ever "
            "goes so far; the paper has 3e-4 and 4e-4"
        )
    if rl.kl.weight and not rl.kl.in_reward and rl.kl.estimator == "k1":
        sentences.append("trainer.rl.kl.estimator=k1 as a loss has no gradient on average, only noise; use k2 or k3")
    task = config.data.countdown
    if config.schedule.warmup_demos and task.other_form_problems and not task.other_form_demos:
        sentences.append(
            "data.countdown.other_form_problems are in a form that no demonstration has: the base policy cannot read "
            "it; set other_form_demos, e.g. 0.2"
        )
    if rollout.max_staleness >= config.schedule.rl_steps:
        sentences.append(
            f"rollout.max_staleness={rollout.max_staleness:g} reaches beyond a phase of "
            f"{config.schedule.rl_steps} steps; what runs ahead is dropped when the phase ends"
        )
    return sentences
