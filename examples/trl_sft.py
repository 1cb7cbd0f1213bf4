"""TRL: supervised fine-tuning of a small Llama on questions about Python and the answers of its own help.

    pip install 'steadynorm[agent,transformers]' trl
    python examples/trl_sft.py

The text is what the interpreter carries, so there is nothing to download: the tokenizer is made from it, and the model
begins with random weights. With `steadynorm up` in another terminal the run can be watched and changed. The two lines
with arrows are steadynorm's.
"""

from pydoc_data.topics import topics

import torch
from datasets import Dataset
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from trl import SFTConfig, SFTTrainer

from steadynorm.integrations.transformers import SteadyNormCallback  # <── one

STEPS, VOCABULARY, CONTEXT = 200, 1024, 128

torch.manual_seed(0)
bytes_of = pre_tokenizers.ByteLevel(add_prefix_space=False)
pairs = Tokenizer(models.BPE())
pairs.pre_tokenizer, pairs.decoder = bytes_of, decoders.ByteLevel()
special = ["<pad>", "<end>"]
pairs.train_from_iterator(
    topics.values(),
    trainers.BpeTrainer(vocab_size=VOCABULARY, special_tokens=special, initial_alphabet=bytes_of.alphabet()),
)
tokenizer = PreTrainedTokenizerFast(tokenizer_object=pairs, pad_token=special[0], eos_token=special[1])
questions = Dataset.from_list(
    [
        {"prompt": f">>> help({name!r})\n", "completion": paragraph}
        for name, text in topics.items()
        for paragraph in text.split("\n\n")
    ]
)

config = LlamaConfig(
    vocab_size=VOCABULARY, hidden_size=128, intermediate_size=384, num_hidden_layers=4, num_attention_heads=4,
    max_position_embeddings=CONTEXT, pad_token_id=0, eos_token_id=1,
)  # fmt: skip
arguments = SFTConfig(
    "out", max_steps=STEPS, per_device_train_batch_size=8, max_length=CONTEXT, learning_rate=1e-3, warmup_steps=20,
    logging_steps=10, save_strategy="no", report_to=[], use_cpu=not torch.cuda.is_available(),
    max_grad_norm=0,  # the trainer's clip would take back what the stabilizer decides
)  # fmt: skip
trainer = SFTTrainer(LlamaForCausalLM(config), args=arguments, train_dataset=questions, processing_class=tokenizer)
SteadyNormCallback(run="trl-sft").add_to(trainer)  # <── two
trainer.train()
