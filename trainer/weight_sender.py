"""The learner's end of transports that push: serves staged versions to engines, one group and one thread for each.

See `rollout.weight_inlet` for what is said in which order. Training waits for none of it: the threads read staged
copies, and the groups they send over hold nobody but this process and one engine. So there is no collective in which a
dead engine could hold up the learner's ranks.

What does hang when an engine dies half way is the broadcast to it, and NCCL would wait for ever. A watch aborts the
communicator as soon as the engine's owner hangs up (it dies with its engine, or kills it), and at the deadline at the
latest. Until then the collective's kernel occupies a few multiprocessors of this GPU, and a call that waits for the
whole device waits with it: hence a deadline, which the engine names (`actors.transfer_timeout_s`); with one that is
longer than the learner's own, a step may be given up for it.
"""

import contextlib
import logging
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from rollout.engine import WeightsMissing
from rollout.transports.accepting import Listener
from rollout.transports.line import Line
from rollout.weight_inlet import ANSWER_TIMEOUT_S
from rollout.weights import RowSource, WeightLayout
from trainer.carriers import Carrier, Tensors

logger = logging.getLogger(__name__)

_LOOK_S = 0.2  # how often a watch looks whether the other end is still there

MakeCarrier = Callable[[int], Carrier]
"""Number of an engine's workers → what brings versions to them."""


@dataclass(frozen=True, slots=True, eq=False)
class _Offer:
    version: int
    layout: WeightLayout
    tensors: Tensors


class WeightSender:
    """Listens for engines and sends them what is offered.

    Args:
        host: Address to listen on, which the engines' hosts can reach.
        make_carrier: Called once per engine that joins.
    """

    def __init__(self, host: str, make_carrier: MakeCarrier) -> None:
        self._make_carrier = make_carrier
        self._offers: dict[int, _Offer] = {}
        self._lines: set[Line] = set()
        self._listener = Listener(socket.create_server((host, 0)))
        self.source = RowSource(host, self._listener.port, secrets.token_hex(32))
        threading.Thread(target=self._accept, name="weight-sender", daemon=True).start()

    def offer(self, side: int, version: int, layout: WeightLayout, tensors: Tensors) -> None:
        """From now on send these tensors as `version`, instead of what lay on that side."""
        self._offers[side] = _Offer(version, layout, tensors)

    def withdraw(self, side: int) -> None:
        """Send nothing of that side any more: it is about to be overwritten."""
        self._offers.pop(side, None)

    def close(self) -> None:
        """Stop listening and leave all groups. Safe to call twice."""
        self._listener.close()
        for line in list(self._lines):
            line.close()

    def _accept(self) -> None:
        for connection, address in self._listener.connections():
            try:
                line = Line(connection, f"the engine at {address}")
            except OSError as error:  # it hung up at once
                logger.info("%s left before it said anything: %s", address, error)
                connection.close()
                continue
            threading.Thread(target=self._serve, args=(line,), name=f"group-{address}", daemon=True).start()

    def _serve(self, line: Line) -> None:
        """One engine, for as long as it lives."""
        carrier: Carrier | None = None
        self._lines.add(line)
        try:
            line.admit(self.source.token, ANSWER_TIMEOUT_S)
            engine = line.hear("its number of workers", ANSWER_TIMEOUT_S)
            carrier, timeout_s = self._make_carrier(int(engine["workers"])), float(engine["timeout_s"])
            line.say(init_info=carrier.init_info)
            with _watched(line, carrier, "joining the group", timeout_s):
                carrier.meet()
            line.say(met=True)
            while True:
                self._send(line, carrier, line.hear("the next version", None)["version"], timeout_s)
        except WeightsMissing as end:
            logger.info("left a group: %s", end)  # the engine is gone, or starts over with a new group
            with contextlib.suppress(WeightsMissing):
                line.say(refused=str(end))
        except Exception as error:  # of NCCL or CUDA, whose types are many; the engine is told, and acts
            logger.exception("sending weights failed")
            with contextlib.suppress(WeightsMissing):
                line.say(refused=f"sending failed: {type(error).__name__}: {error}")
        finally:
            if carrier:
                carrier.abort()
            line.close()
            self._lines.discard(line)

    def _send(self, line: Line, carrier: Carrier, version: int, timeout_s: float) -> None:
        offer = next((offer for offer in list(self._offers.values()) if offer.version == version), None)
        if offer is None:
            held = sorted(offer.version for offer in list(self._offers.values()))
            line.say(refused=f"version {version} is not staged here, only {held}")
            return
        line.say(update_info=carrier.update_info(offer.layout, offer.tensors))
        line.hear(f"the go for version {version}", timeout_s)
        with _watched(line, carrier, f"sending version {version}", timeout_s):
            carrier.send(offer.tensors)
        if offer not in list(self._offers.values()):
            raise RuntimeError(f"version {version} was overwritten while it was sent; the engine took too long")
        line.say(sent=version)


@contextlib.contextmanager
def _watched(line: Line, carrier: Carrier, what: str, timeout_s: float) -> Iterator[None]:
    """Abort the carrier when the engine's owner hangs up meanwhile, and at the deadline.

    Raises `WeightsMissing` in place of whatever the abort made the carrier raise.
    """
    over, reasons = threading.Event(), list[str]()
    deadline = time.monotonic() + timeout_s

    def watch() -> None:
        while not over.wait(_LOOK_S):
            if line.ended():
                reasons.append(f"{what}: the engine hung up")
            elif time.monotonic() > deadline:
                reasons.append(f"{what}: not done in {timeout_s:g} s")
            if reasons:
                carrier.abort()
                return

    watching = threading.Thread(target=watch, name="watch", daemon=True)
    watching.start()
    try:
        yield
    except Exception as error:
        if reasons:
            raise WeightsMissing(reasons[0]) from error
        raise
    finally:
        over.set()
    if reasons:
        raise WeightsMissing(reasons[0])
