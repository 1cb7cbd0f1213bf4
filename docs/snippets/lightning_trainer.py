"""Lightning, in two variants: stabilizing, and clipping."""

import torch
from lightning.pytorch import LightningModule, Trainer
from torch.utils.data import DataLoader, TensorDataset

from steadynorm.integrations.lightning import SteadyNormCallback


class Regression(LightningModule):
    """One layer that learns the sum of its inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.net = torch.nn.Linear(8, 1)

    def training_step(self, batch: list[torch.Tensor], batch_idx: int) -> torch.Tensor:
        """Mean squared error, 0-dim."""
        (inputs,) = batch
        return torch.nn.functional.mse_loss(self.net(inputs), inputs.sum(dim=1, keepdim=True))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """AdamW."""
        return torch.optim.AdamW(self.parameters(), lr=1e-3)


module = Regression()
data = DataLoader(TensorDataset(torch.randn(320, 8)), batch_size=32)
# --8<-- [start:stabilize]
callback = SteadyNormCallback(run="gpt-small", server="http://127.0.0.1:8470")
trainer = Trainer(max_epochs=2, accelerator="cpu", callbacks=[callback])  # no gradient_clip_val
trainer.fit(module, data)
# --8<-- [end:stabilize]
# --8<-- [start:clip]
callback = SteadyNormCallback(run="gpt-small", server="http://127.0.0.1:8470", mode="clip", clip_norm=1.0)
trainer = Trainer(max_epochs=2, accelerator="cpu", callbacks=[callback])  # no gradient_clip_val
trainer.fit(module, data)
# --8<-- [end:clip]
