"""TorchEncoder: queries to vectors by the model itself, and the codes of these."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from mecoq_faiss.bundle.encoder import Encoder
from mecoq_faiss.data.views import to_float
from mecoq_faiss.index.codes import decode_codes
from mecoq_faiss.model import MeCoQ
from mecoq_faiss.runtime.devices import resolve_device


class TorchEncoder(Encoder):
    """The `Encoder` that is the model; ValueError for one of additive codes whose codebooks are not fitted yet.

    Attributes:
        model: the trained model, in eval mode on `device`.
        device: its name, such as `cpu` or `cuda:1`.
        backbone: the model's, with its batch norms folded into its convolutions: the same features, sooner.
        quantizer: what makes the codes, of the model.

    Example:
        >>> from mecoq_faiss import load_encoder
        >>> encoder = load_encoder("bundle")
        >>> encoder.codes(encoder.encode("query.png")).shape[0]
        1
    """

    def __init__(self, model: MeCoQ, device: str | torch.device = "auto") -> None:
        config = model.config
        self.device = resolve_device(device)
        self.model = model.eval().to(self.device)
        self.backbone = self.model.backbone.for_inference(config.image_size)
        self.quantizer = self.model.coder
        additive = config.codes == "additive"
        if additive and self.quantizer is not self.model.additive:
            raise ValueError("the model's additive codebooks are fitted when training ends: this one has none yet")
        of_features = config.backbone == "features"
        shape = (model.backbone.feature_dim,) if of_features else (3, config.image_size, config.image_size)
        super().__init__(shape, self.quantizer.M * self.quantizer.d, additive)

    @property
    def codebooks(self) -> np.ndarray:
        """The codebooks that an index of its codes holds, (M, K, d / M) float32."""
        return self.quantizer.index_codebooks().detach().cpu().numpy()

    @torch.inference_mode()
    def encode_batch(self, batch: Any) -> np.ndarray:
        """See `Encoder.encode_batch`."""
        return self.vectors(torch.as_tensor(batch).to(self.device, non_blocking=True)).cpu().numpy()

    def vectors(self, batch: Tensor) -> Tensor:
        """The same of tensors on `device`."""
        features = batch if self.takes_features else self.backbone(to_float(batch))
        return self.model.queries(self.model.embed(features), self.quantizer)

    @torch.inference_mode()
    def codes(self, xq: np.ndarray) -> np.ndarray:
        """Codes (b, M) uint8 of what `encode` gives, (b, d); of product codes Eq. 15."""
        return self.quantizer.encode(torch.from_numpy(xq).to(self.device)).cpu().numpy()

    def chosen_codewords(self, xq: np.ndarray) -> np.ndarray:
        """See `Encoder.chosen_codewords`."""
        return decode_codes(self.codebooks, self.codes(xq))
