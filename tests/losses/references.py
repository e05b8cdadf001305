"""Computes the losses in float64 NumPy. Each function returns the loss of every sample."""

import numpy as np


def angular_centre(embeddings, centres, identities, margin=0.5, scale=64.0, centre_weight=0.3):
    cosine = own(cosines(embeddings, centres), identities)
    entropy = arcface(embeddings, centres, identities, margin, scale)
    return entropy + centre_weight * scale * (1 - cosine)


def arcface(embeddings, centres, identities, margin=0.5, scale=64.0):
    return margin_softmax(cosines(embeddings, centres), identities, scale, continued(margin))


def cosface(embeddings, centres, identities, margin=0.4, scale=30.0):
    return margin_softmax(
        cosines(embeddings, centres), identities, scale, lambda theta: np.cos(theta) - margin
    )


def combined(embeddings, centres, identities, margin_a=1.0, margin=0.3, margin_b=0.2, scale=64.0):
    return margin_softmax(
        cosines(embeddings, centres),
        identities,
        scale,
        lambda theta: np.cos(margin_a * theta + margin) - margin_b,
    )


def softmax(embeddings, centres, identities, normalise_centres=False):
    if normalise_centres:
        centres = centres / np.linalg.norm(centres, axis=0)
    return cross_entropy(embeddings @ centres, identities)


def margin(embeddings, centres, identities):
    to_all = cosines(embeddings, centres)
    losses = []
    for row, identity in zip(to_all, identities, strict=True):
        losses.append(2 - (row[identity] - max(0, *np.delete(row, identity))))
    return np.array(losses)


def sub_centre(embeddings, centres, identities, num_sub_centres=3, margin=0.5, scale=64.0):
    to_all = cosines(embeddings, centres)
    nearest = np.stack(
        [
            to_all[:, first : first + num_sub_centres].max(axis=1)
            for first in range(0, to_all.shape[1], num_sub_centres)
        ],
        axis=1,
    )
    return margin_softmax(nearest, identities, scale, continued(margin))


def adaface(
    embeddings,
    centres,
    identities,
    margin=0.4,
    scale=64.0,
    concentration=0.333,
    momentum=0.99,
    norms=None,
):
    """Returns the losses of the first step. `norms` replaces the lengths of the embeddings."""
    norms = np.clip(np.linalg.norm(embeddings, axis=1) if norms is None else norms, 1e-3, 100)
    mean = momentum * 20 + (1 - momentum) * norms.mean()
    std = momentum * 100 + (1 - momentum) * norms.std(ddof=1)
    scaler = np.clip(concentration * (norms - mean) / (std + 1e-3), -1, 1)
    return margin_softmax(
        cosines(embeddings, centres),
        identities,
        scale,
        lambda theta: np.cos(np.clip(theta - margin * scaler, 1e-3, np.pi - 1e-3)) - margin * scaler - margin,
    )


def magface(
    embeddings,
    centres,
    identities,
    margin=0.45,
    upper_margin=0.8,
    scale=64.0,
    lower_norm=10.0,
    upper_norm=110.0,
    norm_weight=35.0,
):
    norms = np.clip(np.linalg.norm(embeddings, axis=1), lower_norm, upper_norm)
    margins = margin + (upper_margin - margin) * (norms - lower_norm) / (upper_norm - lower_norm)
    entropy = margin_softmax(cosines(embeddings, centres), identities, scale, continued(margins))
    return entropy + norm_weight * (norms / upper_norm**2 + 1 / norms)


def hardnet(embeddings, identities, margin=1.0):
    """Returns the loss of every pair, computed in a loop over all other pairs."""
    embeddings = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    anchors, positives = np.split(embeddings, 2)
    losses = []
    for i in range(len(anchors)):
        negatives = [
            np.linalg.norm(one - other)
            for j in range(len(anchors))
            if identities[j] != identities[i]
            for one, other in ((anchors[i], positives[j]), (anchors[j], positives[i]))
        ]
        own_distance = np.linalg.norm(anchors[i] - positives[i])
        losses.append(max(0, margin + own_distance - min(negatives)) if negatives else 0)
    return np.array(losses)


def cosines(embeddings, centres):
    lengths = np.linalg.norm(embeddings, axis=1, keepdims=True)
    return embeddings @ (centres / np.linalg.norm(centres, axis=0)) / lengths


def own(similarities, identities):
    return similarities[np.arange(len(identities)), identities]


def continued(margin):
    """Returns `cos(theta + margin)`, continued beyond `pi` as in the original."""
    return lambda theta: np.where(
        theta < np.pi - margin, np.cos(theta + margin), np.cos(theta) - margin * np.sin(margin)
    )


def margin_softmax(to_all, identities, scale, target):
    logits = scale * to_all
    theta = np.arccos(np.clip(own(to_all, identities), -1, 1))
    logits[np.arange(len(identities)), identities] = scale * target(theta)
    return cross_entropy(logits, identities)


def cross_entropy(logits, identities):
    peak = logits.max(axis=1)
    return np.log(np.exp(logits - peak[:, None]).sum(axis=1)) + peak - own(logits, identities)
