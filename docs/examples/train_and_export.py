"""Train on 1,500 handwritten digits without their labels, and export a FAISS index with its encoder.

Real work takes more epochs and more views than these few seconds' worth; see `mecoq-faiss train --help`.
"""

from mecoq_faiss import ModelConfig, TrainConfig, export_index, train

model = ModelConfig(backbone="pixels", image_size=8, M=4, D=32)  # codes of 4 bytes
# digits are neither mirrored nor coloured: the random views only crop
training = TrainConfig(epochs=5, cached_views=5, flip=0.0, gray=0.0, jitter_p=0.0, blur=0.0)

train("digits", "run", model, training)
manifest = export_index("run", "digits", "bundle")

print("items:", manifest["counts"]["items"])
print("bytes a code:", manifest["bytes_per_code"])
print("largest score difference between FAISS and torch:", manifest["verification"]["max_score_difference"])
