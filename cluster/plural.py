"""Numbers of things, for people."""


def plural(number: float, noun: str) -> str:
    """`1 GPU`, `2 GPUs`, `0.5 CPUs`, `3 verifier processes`."""
    shown = f"{number:g}" if isinstance(number, float) else str(number)
    return f"{shown} {noun}" if number == 1 else f"{shown} {noun}{'es' if noun.endswith('s') else 's'}"
