"""Who is close to whom among many vectors, in blocks: memory grows with the number of vectors, not with its square.

Closeness is the dot product: of unit vectors the cosine, of vectors of -1 and 1 their length less twice the differing places.
"""

from __future__ import annotations

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

BLOCK = 2048  # a block of products takes 16 MiB


def unit(vectors: np.ndarray) -> np.ndarray:
    """(n, d) float32 of length 1; zeros stay zeros."""
    vectors = np.asarray(vectors, np.float32)
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.divide(vectors, lengths, out=np.zeros_like(vectors), where=lengths > 0)


def nearest(queries: np.ndarray, references: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each query the closest reference, of equals the first.

    Args:
        queries: (q, d) float32.
        references: (r, d) float32, at least one.

    Returns:
        (q,) int64 places among the references, (q,) float32 products.
    """
    places, best = np.zeros(len(queries), np.int64), np.full(len(queries), -np.inf, np.float32)
    for start in range(0, len(queries), BLOCK):
        rows = slice(start, start + BLOCK)
        for other in range(0, len(references), BLOCK):
            _improve(best, places, rows, queries[rows] @ references[other : other + BLOCK].T, other)
    return places, best


def linked(vectors: np.ndarray, least: float) -> np.ndarray:
    """Groups by single linkage: two vectors whose product is `least` or more are in one group, and so is whoever they bring.

    Returns:
        (n,) int64 group numbers, in the order of the groups' first vectors.
    """
    count = len(vectors)
    groups = np.arange(count)
    for start in range(0, count, BLOCK):
        edges = []
        for other in range(start, count, BLOCK):
            close = vectors[start : start + BLOCK] @ vectors[other : other + BLOCK].T >= least
            a, b = np.nonzero(np.triu(close, 1) if other == start else close)
            pairs = np.stack([groups[a + start], groups[b + other]])
            pairs = pairs[:, pairs[0] != pairs[1]]
            edges.append(np.unique(pairs[0] * count + pairs[1]))
        found = np.concatenate(edges)
        if len(found):
            graph = coo_array((np.ones(len(found), np.int8), (found // count, found % count)), shape=(count, count))
            groups = connected_components(graph, directed=False)[1].astype(np.int64)[groups]
    return _in_order(groups)


def average_linkage(vectors: np.ndarray, least: float) -> np.ndarray:
    """Groups by average linkage, merged while the mean product between the members of two groups is `least` or more.

    That mean is the product of the groups' mean vectors, so no table of pairs is needed. Pairs of groups that are each other's
    nearest are merged all at once, which gives the tree that merging the closest pair over and over gives (Murtagh, "A survey of
    recent advances in hierarchical clustering algorithms", 1983).

    Returns:
        (n,) int64 group numbers, in the order of the groups' first vectors.
    """
    groups = np.arange(len(vectors))
    means, sizes = np.array(vectors, np.float32), np.ones(len(vectors))
    active = np.arange(len(vectors))
    while len(active) > 1:
        places, best = _neighbours(means[active])
        mutual = (places[places] == np.arange(len(active))) & (best >= least)
        kept = np.flatnonzero(mutual & (places > np.arange(len(active))))
        if len(kept) == 0:
            break
        keep, gone = active[kept], active[places[kept]]
        share = (sizes[gone] / (sizes[keep] + sizes[gone])).astype(np.float32)[:, None]
        means[keep] += share * (means[gone] - means[keep])
        sizes[keep] += sizes[gone]
        groups[gone] = keep
        merged = np.zeros(len(active), bool)
        merged[places[kept]] = True
        active = active[(best >= least) & ~merged]  # whoever is far from all groups stays so, whatever merges
    while (groups[groups] != groups).any():
        groups = groups[groups]
    return _in_order(groups)


def _neighbours(vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """As `nearest`, of each vector among the others; a pair's product is the same number for both."""
    places, best = np.zeros(len(vectors), np.int64), np.full(len(vectors), -np.inf, np.float32)
    for start in range(0, len(vectors), BLOCK):
        rows = slice(start, start + BLOCK)
        for other in range(start, len(vectors), BLOCK):
            products = vectors[rows] @ vectors[other : other + BLOCK].T
            if other == start:
                products[np.tril_indices(len(products))] = -np.inf
            _improve(best, places, slice(other, other + BLOCK), products.T, start)
            _improve(best, places, rows, products, other)
    return places, best


def _improve(best: np.ndarray, places: np.ndarray, rows: slice, products: np.ndarray, start: int) -> None:
    """Take over the largest product of each row where it beats the best so far; column 0 stands for place `start`."""
    column = products.argmax(1)
    value = products[np.arange(len(products)), column]
    better = value > best[rows]
    best[rows] = np.where(better, value, best[rows])
    places[rows] = np.where(better, column + start, places[rows])


def _in_order(groups: np.ndarray) -> np.ndarray:
    _, first, numbers = np.unique(groups, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[numbers].astype(np.int64)
