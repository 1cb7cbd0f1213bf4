"""A signal that ends the program, as an exception that unwinds it in order."""

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_AGAIN_AFTER_S = 0.01


class Stopped(SystemExit):
    """This process received SIGINT (Ctrl-C), SIGTERM or SIGHUP.

    Not an Exception: a signal lands anywhere, and an `except Exception` that happens to be at work there would end
    the stop instead of the program. A SystemExit, since asyncio keeps any other exception of a callback to itself.
    """

    def __init__(self, signum: int) -> None:
        super().__init__(signal.Signals(signum).name)
        self.signum = signum
        self.code = 128 + signum


@contextmanager
def stop_signals() -> Iterator[None]:
    """The first SIGINT, SIGTERM or SIGHUP inside raises Stopped in the main thread; a second one acts as usual."""
    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {signum: signal.getsignal(signum) for signum in signals}
    hook = sys.unraisablehook

    def restore() -> None:
        for signum, handler in before.items():
            signal.signal(signum, handler)

    def stop(signum: int, _frame: FrameType | None) -> None:
        restore()
        raise Stopped(signum)

    def again(lost: "sys.UnraisableHookArgs") -> None:
        # It landed in a finalizer, where Python drops exceptions, as it does here: so it comes again, from elsewhere.
        if isinstance(lost.exc_value, Stopped):
            signal.signal(lost.exc_value.signum, stop)
            to = threading.get_ident(), lost.exc_value.signum
            threading.Timer(_AGAIN_AFTER_S, signal.pthread_kill, to).start()
        else:
            hook(lost)

    for signum in signals:
        signal.signal(signum, stop)
    sys.unraisablehook = again
    try:
        yield
    finally:
        sys.unraisablehook = hook
        restore()
