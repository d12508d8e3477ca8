"""Imported in an engine process before it builds its model, this leaves matrices plain instead of packed."""

from rollout.vllm_worker import WorkerExtension, leave_matrices_plain

leave_matrices_plain()


class PlainWorkerExtension(WorkerExtension):
    """Named to vLLM, which imports this module for it."""
