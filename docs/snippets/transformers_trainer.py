"""Hugging Face's Trainer, in two variants: stabilizing, and clipping."""

import torch
from torch.utils.data import Dataset
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments

from steadynorm.integrations.transformers import SteadyNormCallback


class Words(Dataset[dict[str, torch.Tensor]]):
    """Random tokens."""

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        tokens = torch.randint(32, (8,), generator=torch.Generator().manual_seed(index))
        return {"input_ids": tokens, "labels": tokens}


config = LlamaConfig(
    vocab_size=32, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, pad_token_id=0
)
model, data = LlamaForCausalLM(config), Words()
# --8<-- [start:stabilize]
arguments = TrainingArguments("out", max_grad_norm=0, logging_steps=1, report_to=[])  # 0: the Trainer does not clip
trainer = Trainer(model=model, args=arguments, train_dataset=data)
SteadyNormCallback(run="gpt-small", server="http://127.0.0.1:8470").add_to(trainer)
trainer.train()
# --8<-- [end:stabilize]
# --8<-- [start:clip]
arguments = TrainingArguments("out", max_grad_norm=0, logging_steps=1, report_to=[])
trainer = Trainer(model=model, args=arguments, train_dataset=data)
SteadyNormCallback(run="gpt-small", server="http://127.0.0.1:8470", mode="clip", clip_norm=1.0).add_to(trainer)
trainer.train()
# --8<-- [end:clip]
