"""Lightning: handwritten digits, which scikit-learn ships, with steadynorm as a callback.

    pip install 'steadynorm[agent,lightning]' scikit-learn
    python examples/lightning_digits.py

With `steadynorm up` in another terminal the run can be watched and changed. The two lines with arrows are steadynorm's.
"""

import torch
from lightning.pytorch import LightningModule, Trainer
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from steadynorm.integrations.lightning import SteadyNormCallback  # <── one

EPOCHS, BATCH = 15, 64


class Digits(LightningModule):
    """Two layers: images [batch, 64] to logits [batch, 10]."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        """Mean cross entropy, 0-dim."""
        images, labels = batch
        loss = functional.cross_entropy(self.net(images), labels)
        self.log("loss", loss, prog_bar=True)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """AdamW."""
        return torch.optim.AdamW(self.parameters(), lr=1e-3)


torch.manual_seed(0)
digits = load_digits()
data = TensorDataset(torch.tensor(digits.data, dtype=torch.float32) / 16, torch.tensor(digits.target))
callback = SteadyNormCallback(run="lightning-digits")  # <── two; and no gradient_clip_val
trainer = Trainer(max_epochs=EPOCHS, accelerator="cpu", logger=False, enable_checkpointing=False, callbacks=[callback])
trainer.fit(Digits(), DataLoader(data, batch_size=BATCH, shuffle=True))
