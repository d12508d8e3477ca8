"""The part of a response that counts, for models that think aloud first or put their answer into tags."""


def visible(response: str, after: str) -> str:
    """What follows the last `after`, e.g. `</think>`; nothing when it does not occur: the model never came to answer.

    With an empty `after` the whole response counts.
    """
    if not after:
        return response
    _, found, rest = response.rpartition(after)
    return rest if found else ""


def tagged(response: str) -> str | None:
    """What stands in the last whole `<answer>…</answer>`, or None."""
    before, closed, _ = response.rpartition("</answer>")
    _, opened, inside = before.rpartition("<answer>")
    return inside.strip() if closed and opened else None
