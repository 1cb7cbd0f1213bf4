"""Hugging Face's Trainer: a small Llama learns Python's own documentation, byte by byte.

    pip install 'steadynorm[agent,transformers]'
    python examples/transformers_gpt.py

The text is what the interpreter carries, so there is nothing to download. With `steadynorm up` in another terminal the
run can be watched and changed. The two lines with arrows are steadynorm's.
"""

from pydoc_data.topics import topics

import torch
from torch import Tensor
from torch.utils.data import Dataset
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments

from steadynorm.integrations.transformers import SteadyNormCallback  # <── one

STEPS, CONTEXT = 500, 64


class Text(Dataset[dict[str, Tensor]]):
    """Windows of CONTEXT bytes."""

    def __init__(self) -> None:
        text = "\n\n".join(topics[name] for name in sorted(topics))
        self.windows = torch.frombuffer(bytearray(text.encode()), dtype=torch.uint8).long().unfold(0, CONTEXT, CONTEXT)

    def __len__(self) -> int:
        return len(self.windows)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"input_ids": self.windows[index], "labels": self.windows[index]}


torch.manual_seed(0)
config = LlamaConfig(
    vocab_size=256, hidden_size=128, intermediate_size=384, num_hidden_layers=4, num_attention_heads=4,
    max_position_embeddings=CONTEXT, pad_token_id=0,
)  # fmt: skip
arguments = TrainingArguments(
    "out", max_steps=STEPS, per_device_train_batch_size=16, learning_rate=1e-3, warmup_steps=50, logging_steps=10,
    save_strategy="no", report_to=[],
    max_grad_norm=0,  # the Trainer's clip would take back what the stabilizer decides
)  # fmt: skip
trainer = Trainer(model=LlamaForCausalLM(config), args=arguments, train_dataset=Text())
SteadyNormCallback(run="transformers-gpt").add_to(trainer)  # <── two
trainer.train()
