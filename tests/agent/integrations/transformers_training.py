"""A tiny model and a Trainer for it. Importing transformers takes seconds, so only the process that tests it does."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Dataset

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # what their own imports deprecate is not ours
    from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainerCallback, TrainingArguments

    from steadynorm.integrations.transformers import SteadyNormCallback

__all__ = ["At", "SteadyNormCallback", "TrainerCallback", "make_model", "make_trainer"]


class Words(Dataset[dict[str, torch.Tensor]]):
    """Random tokens that predict themselves."""

    def __len__(self) -> int:
        return 256

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        tokens = torch.randint(32, (8,), generator=torch.Generator().manual_seed(index))
        return {"input_ids": tokens, "labels": tokens}


def make_model() -> Any:
    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=32,
            hidden_size=16,
            intermediate_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            num_key_value_heads=2,
            max_position_embeddings=16,
        )
    )


def make_trainer(folder: Path, *callbacks: Any, model: Any = None, **options: Any) -> Any:
    arguments = TrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=4,
        use_cpu=True,
        report_to=[],
        disable_tqdm=True,
        **{"save_strategy": "no", "logging_steps": 1, "learning_rate": 1e-3, **options},
    )
    return Trainer(
        model=model or make_model(), args=arguments, train_dataset=Words(), eval_dataset=Words(),
        callbacks=list(callbacks),
    )  # fmt: skip


class At(TrainerCallback):
    """Does something after a step."""

    def __init__(self, step: int, action: Any) -> None:
        self.step, self.action = step, action

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.step:
            self.action()
