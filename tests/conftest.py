"""What all tiers share: hypothesis draws the same examples everywhere, and takes its time on a busy machine."""

from hypothesis import settings

settings.register_profile("rloop", deadline=None, derandomize=True)
settings.load_profile("rloop")
