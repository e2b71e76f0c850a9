"""Table 1 of the MeCoQ paper (AAAI 2022): MAP in % as it printed them; None where it gives none.

Type: BH binary hashing, Q quantization, D deep. VGG16: fc7 features for the shallow methods, fine-tuned for the deep.
"""

from __future__ import annotations

PROTOCOLS = ("flickr25k", "cifar10-i", "cifar10-ii", "nuswide")
BITS = (16, 32, 64)

Row = tuple[str, str, str, tuple[float | None, ...]]

# system, venue, type, MAP at 16, 32, 64 bits of each protocol in turn
TABLE1: tuple[Row, ...] = (
    ("LSH+VGG", "STOC'02", "BH", (56.11, 57.08, 59.26, 14.38, 15.86, 18.09, 12.55, 13.76, 15.07, 38.52, 41.43, 43.89)),
    (
        "SpeH+VGG",
        "NeurIPS'08",
        "BH",
        (59.77, 61.36, 64.08, 27.09, 29.44, 32.65, 27.20, 28.50, 30.00, 51.70, 51.10, 51.00),
    ),
    ("SH+VGG", "IIAR'09", "BH", (60.02, 63.30, 64.17, 28.28, 28.86, 28.51, 24.68, 25.34, 27.16, 46.85, 53.63, 56.28)),
    ("SphH+VGG", "CVPR'12", "BH", (61.32, 62.47, 64.49, 26.90, 31.75, 35.25, 25.40, 29.10, 33.30, 49.50, 55.80, 58.20)),
    ("ITQ+VGG", "TPAMI'12", "BH", (63.30, 65.92, 68.86, 34.41, 35.41, 38.82, 30.50, 32.50, 34.90, 62.70, 64.50, 66.40)),
    ("PQ+VGG", "TPAMI'10", "Q", (62.75, 66.63, 69.40, 27.14, 33.30, 37.67, 28.16, 30.24, 30.61, 65.39, 67.41, 68.56)),
    ("OPQ+VGG", "CVPR'13", "Q", (63.27, 68.01, 69.86, 27.29, 35.17, 38.48, 32.17, 33.50, 34.46, 65.74, 68.38, 69.12)),
    ("DeepBit", "CVPR'16", "DBH", (62.04, 66.54, 68.34, 19.43, 24.86, 27.73, 20.60, 28.23, 31.30, 39.20, 40.30, 42.90)),
    ("UTH", "ACMMM'17", "DBH", (None, None, None, None, None, None, None, None, None, 45.00, 49.50, 54.90)),
    ("SAH", "CVPR'17", "DBH", (None, None, None, 41.75, 45.56, 47.36, None, None, None, None, None, None)),
    ("SGH", "ICML'17", "DBH", (72.10, 72.84, 72.83, 34.51, 37.04, 38.93, 43.50, 43.70, 43.30, 59.30, 59.00, 60.70)),
    ("HashGAN", "CVPR'18", "DBH", (72.11, 73.25, 75.46, 44.70, 46.30, 48.10, 42.81, 47.54, 47.29, 68.44, 70.56, 71.71)),
    (
        "GreedyHash",
        "NeurIPS'18",
        "DBH",
        (69.91, 70.85, 73.03, 44.80, 47.20, 50.10, 45.76, 48.26, 53.34, 63.30, 69.10, 73.10),
    ),
    ("BinGAN", "NeurIPS'18", "DBH", (None, None, None, None, None, None, 47.60, 51.20, 52.00, 65.40, 70.90, 71.30)),
    ("BGAN", "AAAI'18", "DBH", (None, None, None, None, None, None, 52.50, 53.10, 56.20, 68.40, 71.40, 73.00)),
    ("SSDH", "IJCAI'18", "DBH", (75.65, 77.10, 76.68, 36.16, 40.37, 44.00, 33.30, 38.29, 40.81, 58.00, 59.30, 61.00)),
    ("DVB", "IICV'19", "DBH", (None, None, None, None, None, None, 40.30, 42.20, 44.60, 60.40, 63.20, 66.50)),
    ("DistillHash", "CVPR'19", "DBH", (None, None, None, None, None, None, None, None, None, 62.70, 65.60, 67.10)),
    ("TBH", "CVPR'20", "DBH", (74.38, 76.14, 77.87, 54.68, 58.63, 62.47, 53.20, 57.30, 57.80, 71.70, 72.50, 73.50)),
    ("MLS 3 RDUH", "IJCAI'20", "DBH", (None, None, None, None, None, None, None, None, None, 71.30, 72.70, 75.00)),
    (
        "Bi-half Net",
        "AAAI'21",
        "DBH",
        (76.07, 77.93, 78.62, 56.10, 57.60, 59.50, 49.97, 52.04, 55.35, 76.86, 78.31, 79.94),
    ),
    (
        "CIBHash",
        "IJCAI'21",
        "DBH",
        (77.21, 78.43, 79.50, 59.39, 63.67, 65.16, 59.00, 62.20, 64.10, 79.00, 80.70, 81.50),
    ),
    ("DBD-MQ", "CVPR'17", "DQ", (None, None, None, 21.53, 26.50, 31.85, None, None, None, None, None, None)),
    ("DeepQuan", "IJCAI'18", "DQ", (None, None, None, 39.95, 41.25, 43.26, None, None, None, None, None, None)),
    ("MeCoQ (Ours)", "", "DQ", (81.31, 81.71, 82.68, 68.20, 69.74, 71.06, 62.88, 64.09, 65.07, 80.18, 82.16, 83.24)),
)


def published(protocol: str) -> dict[str, tuple[float | None, ...]]:
    """System -> the paper's MAP at 16, 32 and 64 bits on a protocol; empty for a protocol it does not have."""
    if protocol not in PROTOCOLS:
        return {}
    first = 3 * PROTOCOLS.index(protocol)
    return {system: values[first : first + 3] for system, _, _, values in TABLE1}
