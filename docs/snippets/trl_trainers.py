"""TRL's trainers on a tiny model with random weights: supervised fine-tuning, and GRPO with a reward of one's own."""

import torch
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from trl import GRPOConfig, GRPOTrainer, SFTConfig, SFTTrainer

from steadynorm.integrations.transformers import SteadyNormCallback

torch.manual_seed(0)
words = ["<pad>", "<end>", *"abcdefghijklmnopqrstuvwxyz 0123"]
split = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, "<pad>"))
split.pre_tokenizer = pre_tokenizers.Split("", "isolated")  # type: ignore[assignment]
tokenizer = PreTrainedTokenizerFast(tokenizer_object=split, pad_token="<pad>", eos_token="<end>")
config = LlamaConfig(
    vocab_size=len(words), hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
    pad_token_id=0, eos_token_id=1,
)  # fmt: skip
model = LlamaForCausalLM(config)
questions = Dataset.from_list([{"prompt": f"say {each} ", "completion": each * 4} for each in "abcdefgh"])


def says_digits(completions: list[str], **_: object) -> list[float]:
    """The reward: how many digits an answer has."""
    return [float(sum(map(str.isdigit, each))) for each in completions]


# --8<-- [start:sft]
arguments = SFTConfig(
    "out", max_grad_norm=0, logging_steps=1, report_to=[],  # 0: the trainer does not clip
    use_cpu=True,  # not where there is a GPU
)  # fmt: skip
trainer = SFTTrainer(model, args=arguments, train_dataset=questions, processing_class=tokenizer)
SteadyNormCallback(run="sft", server="http://127.0.0.1:8470").add_to(trainer)
trainer.train()
# --8<-- [end:sft]
# --8<-- [start:grpo]
arguments = GRPOConfig(
    "out", max_grad_norm=0, logging_steps=1, report_to=[], num_generations=4, max_completion_length=8,
    use_cpu=True,  # not where there is a GPU
)  # fmt: skip
trainer = GRPOTrainer(model, says_digits, args=arguments, train_dataset=questions, processing_class=tokenizer)
SteadyNormCallback(run="grpo", server="http://127.0.0.1:8470").add_to(trainer)
trainer.train()
# --8<-- [end:grpo]
