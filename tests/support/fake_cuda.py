"""A CUDA driver that computes in host memory, does its copies to the host only when told, and notes who called it.

For what no CPU shows: which thread makes CUDA calls, what waits for the device, what a copy that is not done leaves.
Kernels run at once, as far as a reader on the host can tell; copies to host memory wait for `run()`.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Any

import pytest
import torch

DEVICE = torch.device("cuda", 0)
_FACTORIES = ("zeros", "empty", "ones", "full", "tensor", "rand")
_WAITS = {"tolist", "item", "cpu", "__bool__", "__float__", "__int__", "numpy"}


class FakeCuda:
    """calls: (thread's name, function) of everything that touched the device or torch.cuda."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.calls: list[tuple[str, str]] = []
        self.waits: list[str] = []
        self.capturing = False
        self._copies: deque[Callable[[], object]] = deque()
        self._lock = threading.Lock()
        driver = self

        class OnDevice(torch.Tensor):
            @classmethod
            def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
                return driver.call(func, args, kwargs or {})

        self._on_device = OnDevice
        for name in _FACTORIES:
            patch.setattr(torch, name, self._factory(getattr(torch, name)))
        patch.setattr(torch.cuda, "is_current_stream_capturing", self._is_capturing)
        for name in ("Event", "Stream", "stream", "current_stream", "set_device", "synchronize", "device"):
            patch.setattr(torch.cuda, name, self._noted(name))

    def run(self, copies: int | None = None) -> None:
        """The device does the next copies to host memory; None: all of them."""
        for _ in range(len(self._copies) if copies is None else copies):
            self._copies.popleft()()

    @property
    def pending(self) -> int:
        """Copies to host memory that are enqueued."""
        return len(self._copies)

    def threads(self) -> set[str]:
        """Names of the threads that called the driver."""
        return {thread for thread, _ in self.calls}

    def put(self, value: torch.Tensor) -> torch.Tensor:
        """`value` in the memory of the device."""
        return value.clone().as_subclass(self._on_device)

    def call(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        name = getattr(func, "__name__", str(func))
        if func == torch.Tensor.device.__get__:
            return DEVICE
        if name == "__get__":  # other properties need no driver
            with torch._C.DisableTorchFunctionSubclass():
                return func(*args, **kwargs)
        with self._lock:
            self.calls.append((threading.current_thread().name, name))
        if name in _WAITS:
            self.waits.append(name)
        with torch._C.DisableTorchFunctionSubclass():
            if name == "copy_" and not isinstance(args[0], self._on_device):
                target, value = args[0], args[1].clone()
                if not kwargs.get("non_blocking"):
                    self.waits.append("copy_")
                self._copies.append(lambda: target.copy_(value))
                return target
            found = func(*args, **kwargs)
        return found.as_subclass(self._on_device) if isinstance(found, torch.Tensor) else found

    def _factory(self, real: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
        def make(*args: Any, device: Any = None, pin_memory: bool = False, **kwargs: Any) -> torch.Tensor:
            on_device = device is not None and torch.device(device).type == "cuda"
            made = real(*args, device="cpu" if on_device else device, **kwargs)
            return made.as_subclass(self._on_device) if on_device else made

        return make

    def _is_capturing(self) -> bool:
        return self.capturing

    def _noted(self, name: str) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            with self._lock:
                self.calls.append((threading.current_thread().name, f"torch.cuda.{name}"))
            raise AssertionError(f"torch.cuda.{name} is not faked")

        return call
