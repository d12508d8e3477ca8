"""The `verifier` section of a run file."""

from pydantic import BaseModel, ConfigDict, Field


class VerifierConfig(BaseModel):
    """How answers are scored."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field("math", description="Built-in verifier (math, exact, countdown) or 'package.module:name'.")
    processes: int = Field(2, ge=1, le=256, description="Processes that score answers, each isolated and killable.")
    timeout_s: float = Field(
        5.0, gt=0, le=600, description="Seconds one answer may take; then its process is killed and replaced."
    )
