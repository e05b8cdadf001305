import numpy as np
import pytest
import tensorflow as tf

from nets.backbone import Backbone, decayed_variables, load_backbone
from nets.importers.insightface_weights import load_insightface, torch_variables
from nets.inference import inference_net
from nets.layers.dropout import DropPath
from nets.layers.tokens import DropTokens, RestoreTokens
from nets.variants import VARIANTS
from nets.vit import vit
from tests.nets.counting import multiply_adds, num_parameters
from tests.torch_state import vit_state
from tests.torch_zip import write_state_dict

IMAGE_SIZE = (31, 20)  # 3 x 2 patches, and pixels that no patch covers
FACES = np.random.default_rng(0).integers(0, 256, (3, *IMAGE_SIZE, 3), np.uint8)  # RGB
IMAGES = (FACES[..., ::-1].astype(np.float32) - 127.5) / 128


def numpy_net(state, faces, depth, heads=8):
    """Computes the net as PyTorch does, in float64."""
    state = {name: value.astype(np.float64) for name, value in state.items()}
    x = (faces / 255 - 0.5) / 0.5
    rows, columns = (side // 9 for side in faces.shape[1:3])
    x = x[:, : 9 * rows, : 9 * columns].reshape(len(x), rows, 9, columns, 9, 3)
    x = np.einsum("nriskc,ocik->nrso", x, state["patch_embed.proj.weight"])
    x = x.reshape(len(x), rows * columns, -1) + state["patch_embed.proj.bias"] + state["pos_embed"]

    def dense(x, name):
        return x @ state[f"{name}.weight"].T + state.get(f"{name}.bias", 0)

    def layer_norm(x, name):
        x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
        return x * state[f"{name}.weight"] + state[f"{name}.bias"]

    def batch_norm(x, name):
        x = (x - state[f"{name}.running_mean"]) / np.sqrt(state[f"{name}.running_var"] + 2e-5)
        return x * state[f"{name}.weight"] + state[f"{name}.bias"]

    for number in range(depth):
        name = f"blocks.{number}"
        y = dense(layer_norm(x, f"{name}.norm1"), f"{name}.attn.qkv")
        q, k, v = y.reshape(*y.shape[:2], 3, heads, -1).transpose(2, 0, 3, 1, 4)
        scores = np.exp(q @ k.transpose(0, 1, 3, 2) / np.sqrt(q.shape[-1]))
        y = (scores / scores.sum(-1, keepdims=True)) @ v
        x = x + dense(y.transpose(0, 2, 1, 3).reshape(x.shape), f"{name}.attn.proj")
        y = np.clip(dense(layer_norm(x, f"{name}.norm2"), f"{name}.mlp.fc1"), 0, 6)
        x = x + dense(y, f"{name}.mlp.fc2")
    x = layer_norm(x, "norm").reshape(len(x), -1)
    return batch_norm(dense(batch_norm(dense(x, "feature.0"), "feature.1"), "feature.2"), "feature.3")


def test_embeddings_agree_with_numpy():
    state = vit_state(16, 3, num_tokens=6, embedding_size=12)
    net = vit(16, 3, IMAGE_SIZE, 12)
    mappings = torch_variables(net)
    assert {name: mapping.shape for name, mapping in mappings.items()} == {
        name: value.shape for name, value in state.items()
    }
    for name, (variable, _, transform) in mappings.items():
        variable.assign(transform(state[name]))
    expected = numpy_net(state, FACES, depth=3)
    for model in (net, inference_net(net)):
        np.testing.assert_allclose(model(IMAGES, training=False), expected, rtol=1e-3, atol=1e-4)


def test_a_state_dict_is_loaded_and_others_are_refused(tmp_path):
    state = vit_state(256, 12, num_tokens=4, embedding_size=24)
    write_state_dict(tmp_path / "net.pth", state)
    net = load_backbone(tmp_path / "net.pth")
    assert net.net == Backbone("vit_t", (18, 18), 24).net
    for name, (variable, _, transform) in torch_variables(net).items():
        np.testing.assert_array_equal(variable.numpy(), transform(state[name]), err_msg=name)
    write_state_dict(tmp_path / "net.pth", {n: v for n, v in state.items() if not n.startswith("blocks.11.")})
    with pytest.raises(ValueError, match=r"net\.pth: .*\(vit_t\).*'depth': 11"):
        load_insightface(tmp_path / "net.pth")
    small = {n: v if v.ndim == 1 else v[:1] for n, v in state.items() if "blocks" in n}
    kept = ("patch_embed.proj.weight", "pos_embed", "feature.2.weight")
    write_state_dict(tmp_path / "net.pth", {**small, **{name: state[name] for name in kept}})
    with pytest.raises(ValueError, match=r"net\.pth: expected at least 9437184 weights of vit_t"):
        load_insightface(tmp_path / "net.pth")


def expected_operations(width, depth, num_tokens=144, embedding_size=512):
    block = 12 * width**2 * num_tokens + 2 * num_tokens**2 * width
    return depth * block + num_tokens * width * (243 + width) + width * embedding_size


def test_parameters_and_multiply_adds_are_those_of_arcface_torch():
    net = Backbone("vit_t")
    assert multiply_adds(net) == expected_operations(256, 12) == 1_504_882_688
    state = vit_state(256, 12, 144)
    assert num_parameters(net) == sum(v.size for name, v in state.items() if "running" not in name)
    # arcface_torch says 1.5, 5.7 and 11.4 G.
    published = {"vit_t": 1.5, "vit_s": 5.7, "vit_b": 11.4}
    for name, billions in published.items():
        assert round(expected_operations(**VARIANTS[name].arguments) / 1e9, 1) == billions


def test_kernels_decay_and_the_embedding_is_float32(tmp_path):
    net = Backbone("vit_t", IMAGE_SIZE, 12, keep_prob=0.9, seed=3, dtype="mixed_bfloat16", mask_ratio=0.4)
    assert {v.dtype for v in net.variables if v.name != "draws"} == {"float32"}
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(net(IMAGES, training=True) ** 3)
    gradients = tape.gradient(loss, [variable.value for variable in net.trainable_variables])
    assert all(gradient is not None for gradient in gradients)
    embedding = net(IMAGES, training=False)
    assert embedding.dtype == tf.float32 and embedding.shape == (3, 12)
    decayed = {id(v) for v in decayed_variables(net)}
    assert {id(v) for v in net.trainable_variables if v.name == "kernel"} <= decayed
    assert len(decayed_variables(net, dense=False)) == len(decayed)  # only the original's nets differ
    net.save(tmp_path / "net.keras")
    loaded = load_backbone(tmp_path / "net.keras")
    assert loaded.net == net.net and loaded.net["mask_ratio"] == 0.4
    np.testing.assert_array_equal(loaded(IMAGES, training=False), embedding)


def test_tokens_are_removed_and_restored():
    x = np.random.default_rng(0).normal(size=(5, 10, 3)).astype(np.float32)
    drop, restore = DropTokens(0.35, seed=1), RestoreTokens(0.35, "ones")
    kept, places = drop(x, training=True)
    assert kept.shape == (5, 6, 3)
    restored = restore([kept, places], training=True).numpy()
    is_removed = (restored == 1).all(-1)
    assert (is_removed.sum(1) == 4).all() and len({tuple(row) for row in is_removed}) > 1
    np.testing.assert_array_equal(restored[~is_removed], x[~is_removed])
    again = restore(list(drop(x, training=True)), training=True).numpy()
    assert ((again == 1).all(-1) != is_removed).any()
    unchanged, places = drop(x, training=False)
    np.testing.assert_array_equal(restore([unchanged, places], training=False), x)
    with pytest.raises(ValueError, match=r"mask_ratio: .* 1$"):
        DropTokens(1)


def test_drop_path_keeps_or_drops_whole_images():
    x = np.ones((200, 4, 3), np.float32)
    kept = DropPath(0.8, seed=1)(x, training=True).numpy().reshape(200, -1)
    assert (kept == kept[:, :1]).all() and set(np.unique(kept)) == {0, np.float32(1.25)}
    assert 0.7 < (kept[:, 0] > 0).mean() < 0.9


def test_removed_tokens_do_not_depend_on_replicas(two_replicas):
    x = np.random.default_rng(0).normal(size=(6, 10, 3)).astype(np.float32)
    expected, _ = DropTokens(0.5, seed=3)(x, training=True)
    with two_replicas.scope():
        layer = DropTokens(0.5, seed=3)
        layer.build(x.shape)
    parts = iter(np.split(x, 2))
    values = two_replicas.experimental_distribute_values_from_function(lambda _: tf.constant(next(parts)))
    received = two_replicas.run(lambda part: layer(part, training=True)[0], (values,))
    np.testing.assert_array_equal(np.concatenate(two_replicas.experimental_local_results(received)), expected)
