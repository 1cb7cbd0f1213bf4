"""The programs of "Does it work with …?", each in its smallest form: what their optimizers step with."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from tests.docs.test_recipes import FRAMEWORKS

import steadynorm

STEPS = 12


class Container(torch.optim.Optimizer):
    """Steps several optimizers; it has no step of its own."""

    def __init__(self, parts: list[torch.nn.Module]) -> None:
        self.optimizers = [torch.optim.AdamW(part.parameters()) for part in parts]
        super().__init__([parameter for part in parts for parameter in part.parameters()], {})

    def __iter__(self) -> Iterator[torch.optim.Optimizer]:
        return iter(self.optimizers)

    def step(self, closure: object = None) -> None:  # type: ignore[override]
        """One step of each."""
        for optimizer in self.optimizers:
            optimizer.step()


class TwoPhases(torch.optim.Optimizer):
    """Sharpness-aware minimization: climbs in the first phase, goes back and steps in the second."""

    def __init__(self, parameters: list[torch.Tensor], base: Callable[..., torch.optim.Optimizer]) -> None:
        super().__init__(parameters, {})
        self.base_optimizer = base(self.param_groups)


def watch(*optimizers: torch.optim.Optimizer) -> list[list[float]]:
    """The norms that the optimizers step with, a list for each step; call it after attach()."""
    seen: list[list[float]] = []

    def before(optimizer: torch.optim.Optimizer, *_: object) -> None:
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        seen.append([float(each.grad.norm()) for each in parameters if each.grad is not None])

    for optimizer in optimizers:
        optimizer.register_step_pre_hook(before)
    return seen


def about_one(seen: list[list[float]]) -> bool:
    """Whether every norm is what stabilizing makes of it in calm training."""
    return all(0.3 < norm < 3 for step in seen for norm in step)


def network() -> torch.nn.Sequential:
    """Its gradients are hundreds of times too large to be stepped with, with the losses below."""
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.Tanh(), torch.nn.Linear(16, 4))


def loss_of(model: torch.nn.Module) -> torch.Tensor:
    """A loss of random inputs."""
    loss: torch.Tensor = 1000 * (model(torch.randn(32, 8)) - 1).square().mean()
    return loss


def test_a_language_models_loop() -> None:
    model = network()
    groups = [
        {"params": [each for each in model.parameters() if each.dim() > 1], "weight_decay": 0.1},
        {"params": [each for each in model.parameters() if each.dim() == 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=1e-3, fused=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    agent = steadynorm.attach(model, optimizer)
    seen = watch(optimizer)
    for _ in range(STEPS):
        for _ in range(4):
            with torch.autocast("cpu", torch.bfloat16):
                loss = loss_of(model) / 4
            scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        schedule.step()
        optimizer.zero_grad(set_to_none=True)
    assert (agent.step, len(seen)) == (STEPS, STEPS)
    assert about_one(seen)
    assert optimizer.param_groups[0]["lr"] < 1e-6, "the schedule's own end"


@pytest.mark.parametrize("mode", ["stabilize", "observe"])
def test_a_gan(mode: str) -> None:
    generator, discriminator = network(), torch.nn.Linear(4, 1)
    of_generator, of_discriminator = (
        torch.optim.Adam(each.parameters(), betas=(0.5, 0.999)) for each in (generator, discriminator)
    )
    agents = [
        steadynorm.attach(generator, of_generator, mode=mode),
        steadynorm.attach(discriminator, of_discriminator, mode=mode),
    ]
    seen = watch(of_generator, of_discriminator)
    for _ in range(STEPS):
        noise, real = torch.randn(32, 8), torch.randn(32, 4)
        of_discriminator.zero_grad()
        (1000 * (discriminator(generator(noise).detach()) - discriminator(real)).mean()).backward()
        if mode == "observe":
            agents[1].before_clip(of_discriminator)
            torch.nn.utils.clip_grad_norm_(discriminator.parameters(), 0.1)
        of_discriminator.step()
        of_generator.zero_grad()
        (-1000 * discriminator(generator(noise)).mean()).backward()
        of_generator.step()
    assert [agent.step for agent in agents] == [STEPS, STEPS]
    raw = [each["raw_norm"] for agent in agents for each in agent.statistics().values()]
    if mode == "stabilize":
        assert all(norm < 3 for step in seen for norm in step)
    else:
        weights = seen[0::2]  # the discriminator steps first
        assert all(norm < 0.1001 for step in weights for norm in step), "the clip is left alone"
        assert max(raw) > 10, "and the norm before it is recorded"


def test_a_container_of_optimizers() -> None:
    parts = [network(), torch.nn.Linear(4, 4)]
    container = Container(parts)
    agent = steadynorm.attach(torch.nn.ModuleList(parts), container)
    seen = watch(*container.optimizers)
    for _ in range(STEPS):
        container.zero_grad()
        loss_of(torch.nn.Sequential(*parts)).backward()
        container.step()
    assert (agent.step, len(seen)) == (STEPS, 2 * STEPS)
    assert about_one(seen)
    assert set(agent.statistics()) == set(dict(torch.nn.ModuleList(parts).named_parameters()))


def test_optimizers_within_backward() -> None:
    model = network()
    of_parameter = {parameter: torch.optim.SGD([parameter], lr=1e-3) for parameter in model.parameters()}
    agent = steadynorm.attach(model, list(of_parameter.values()))
    seen = watch(*of_parameter.values())

    def step(parameter: torch.Tensor) -> None:
        of_parameter[parameter].step()  # type: ignore[index]
        parameter.grad = None

    for parameter in model.parameters():
        parameter.register_post_accumulate_grad_hook(step)
    for _ in range(STEPS):
        loss_of(model).backward()
    assert (agent.step, len(seen)) == (STEPS, 4 * STEPS)
    assert about_one(seen)


def test_sam_itself_is_refused_with_what_to_pass() -> None:
    model = network()
    optimizer = TwoPhases(list(model.parameters()), torch.optim.SGD)
    with pytest.raises(TypeError, match=r"attach\(model, optimizer\.base_optimizer\)"):
        steadynorm.attach(model, optimizer)


@pytest.mark.filterwarnings("ignore")  # of its own
def test_opacus() -> None:
    from opacus import PrivacyEngine

    plain = network()
    model, optimizer, loader = PrivacyEngine().make_private(
        module=plain, optimizer=torch.optim.AdamW(plain.parameters()), noise_multiplier=1.0, max_grad_norm=1.0,
        data_loader=torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.randn(64, 8)), batch_size=16),
    )  # fmt: skip
    with pytest.raises(TypeError, match=r"attach\(model, optimizer\.original_optimizer\)"):
        steadynorm.attach(model, optimizer)
    agent = steadynorm.attach(model, optimizer.original_optimizer)
    seen = watch(optimizer.original_optimizer)
    for _ in range(3):
        for (inputs,) in loader:
            optimizer.zero_grad()
            (1000 * (model(inputs) - 1).square().mean()).backward()
            optimizer.step()
    assert agent.step == len(seen) > 6
    assert about_one(seen)
    assert set(agent.statistics()) == set(dict(plain.named_parameters()))


def test_every_program_of_the_table_is_tried(root: Path) -> None:
    programs = tomllib.loads((root / "docs" / "works_with.toml").read_text("utf-8"))["program"]
    tests = {each["test"] for each in programs if "test" in each}
    here = {name for name in globals() if name.startswith("test_") and not name.startswith("test_every")}
    assert {name for name in tests if name.startswith("test_")} == here
    assert {name for name in tests if not name.startswith("test_")} <= set(FRAMEWORKS)
    assert all("test" in each or each["how"].startswith("no: ") for each in programs)
