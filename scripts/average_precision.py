#!/usr/bin/env python3
"""Prints the average precisions that src/check/precision/tests.rs expects (needs scikit-learn).

Scores and labels are integer formulas, which the test has, too; many scores are equal.
"""
import numpy as np
from sklearn.metrics import average_precision_score

IMAGES, LABELS = 150, 6


def main():
    i, label = np.mgrid[0:IMAGES, 0:LABELS]
    noise = (i * 37 + label * 101 + i * i * 13) % 53
    right = (i * 29 + label * 17 + i * label * 7) % 11 < label % 4 + 1
    scores = {"float": noise + 12 * right, "quantized": (noise + 9 * right) // 4}
    for name, score in scores.items():
        each = [average_precision_score(right[:, k], score[:, k] / 64) for k in range(LABELS)]
        print(name, [float(f"{x:.15f}") for x in each])
        print("  mean", average_precision_score(right, score / 64, average="macro"))


if __name__ == "__main__":
    main()
