import gc
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from eval.embedding import extractor
from eval.embedding.extractor import embed_images, embed_into, embed_pairs
from eval.embedding.feature_store import FeatureStore

FACES = np.random.default_rng(0).integers(0, 256, (23, 6, 5, 3), np.uint8)
WAIT = 20  # seconds after which a test that hangs fails


class Model:
    """A model whose embeddings depend on the batch, as the last bits of a net's embeddings do."""

    def __init__(self):
        self.weights = np.random.default_rng(1).normal(size=(6 * 5 * 3, 4)).astype(np.float32)
        self.batches = []

    def embed(self, faces):
        self.batches.append(len(faces))
        embeddings = faces.reshape(len(faces), -1).astype(np.float32) @ self.weights
        return embeddings + np.float32(len(faces)) + faces.astype(np.float32).mean()


def decode(start, stop):
    return FACES[start:stop]


def embedded_plainly(batch_size, start=0, flip=False):
    """Computes the expected embeddings in a loop."""
    rows = []
    for first in range(0, len(FACES), batch_size):
        faces = FACES[first : first + batch_size]
        embeddings = Model().embed(faces)
        if flip:
            embeddings = embeddings + Model().embed(np.ascontiguousarray(faces[:, :, ::-1]))
        rows.append(embeddings)
    return np.concatenate(rows)[start:]


def decoding_threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith("decode")]


class Pairs:
    def __init__(self):
        self.batch = decode

    def __len__(self):
        return 11


class TestEmbedImages:
    @pytest.mark.parametrize("batch_size", [1, 2, 7, 22, 23, 64])
    @pytest.mark.parametrize("flip", [False, True])
    def test_embeddings_are_in_order_at_any_batch_size(self, batch_size, flip):
        model = Model()
        batches = list(embed_images(model, decode, 23, batch_size, flip=flip))
        np.testing.assert_array_equal(np.concatenate(batches), embedded_plainly(batch_size, flip=flip))
        assert batches[0].dtype == np.float32
        lengths = [min(batch_size, 23 - start) for start in range(0, 23, batch_size)]
        assert [len(batch) for batch in batches] == lengths
        assert model.batches == list(np.repeat(lengths, 1 + flip))

    def test_flip_adds_the_embedding_of_the_mirror(self):
        """InsightFace also adds both without normalising them first."""
        (once,) = embed_images(Model(), decode, 23)
        (mirrored,) = embed_images(Model(), lambda start, stop: np.flip(FACES[start:stop], axis=2), 23)
        (both,) = embed_images(Model(), decode, 23, flip=True)
        np.testing.assert_array_equal(both, once + mirrored)
        assert np.abs(once - mirrored).max() > 1

    @pytest.mark.parametrize("start", [7, 21])
    def test_starting_between_two_batches_gives_the_same_bits(self, start):
        batches = list(embed_images(Model(), decode, 23, 7, start=start))
        np.testing.assert_array_equal(np.concatenate(batches), embedded_plainly(7, start))

    def test_batches_end_at_multiples_of_the_batch_size_wherever_they_start(self):
        spans = []
        list(embed_images(Model(), lambda *span: spans.append(span) or FACES[slice(*span)], 23, 7, start=9))
        assert spans == [(9, 14), (14, 21), (21, 23)]

    def test_no_images_give_no_batches(self):
        assert list(embed_images(Model(), decode, 0)) == []
        assert list(embed_images(Model(), decode, 23, start=23)) == []

    @pytest.mark.parametrize("value", [np.nan, np.inf])
    def test_an_error_names_the_image_of_an_embedding_that_is_not_finite(self, value):
        model = Model()
        model.weights[0, 2] = 0
        embed = model.embed

        def broken(faces):
            embeddings = embed(faces)
            embeddings[(faces == FACES[17]).all(axis=(1, 2, 3)), 1] = value
            return embeddings

        model.embed = broken
        batches = embed_images(model, decode, 23, 5, start=5)
        assert [len(next(batches)) for _ in range(2)] == [5, 5]
        with pytest.raises(ValueError, match="image 17: "):
            next(batches)

    @pytest.mark.parametrize("flip", [False, True])
    def test_a_progress_bar_is_shown(self, capsys, monkeypatch, flip):
        counted = []

        class Bar(extractor.Progress):
            def close(self):
                counted.append(self.n)
                super().close()

        monkeypatch.setattr(extractor, "Progress", Bar)
        monkeypatch.setattr("sys.stderr.isatty", lambda: True)
        list(embed_images(Model(), decode, 23, 5, start=10, flip=flip, progress="frames"))
        shown = capsys.readouterr().err
        assert "10/23 [" in shown
        assert " frames/s]" in shown
        assert set(counted) == {23}
        list(embed_images(Model(), decode, 23, 5, flip=flip))
        assert not capsys.readouterr().err


class TestPrefetch:
    def test_decodes_the_next_batches_while_the_model_works(self):
        decoded = [threading.Event() for _ in range(8)]

        def decode(start, stop):
            decoded[start // 3].set()
            return FACES[start:stop]

        class Waiting(Model):
            def embed(self, faces):
                # While the model works on this batch, the next two are decoded.
                number = len(self.batches)
                assert all(event.wait(WAIT) for event in decoded[number : number + 3])
                return super().embed(faces)

        batches = list(embed_images(Waiting(), decode, 23, 3))
        np.testing.assert_array_equal(np.concatenate(batches), embedded_plainly(3))

    def test_only_two_batches_are_decoded_ahead(self):
        asked = []
        spans = (asked.append(start) or (start, start + 1) for start in range(23))
        batches = extractor._decoded_ahead(decode, spans)
        for number in range(3):
            next(batches)
            assert asked == [*range(number + 3)]
        batches.close()

    def test_one_call_at_a_time_in_order(self):
        busy, starts = threading.Lock(), []

        def decode(start, stop):
            assert busy.acquire(blocking=False)
            starts.append(start)
            time.sleep(0.01)
            busy.release()
            return FACES[start:stop]

        list(embed_images(Model(), decode, 6, 1))
        assert starts == [*range(6)]

    def test_closing_stops_decoding(self, monkeypatch):
        starts, closing, shutdown = [], threading.Event(), ThreadPoolExecutor.shutdown

        def decode(start, stop):
            starts.append(start)
            assert start == 0 or closing.wait(WAIT)
            return FACES[start:stop]

        def shut_down(pool, wait=True, **options):
            shutdown(pool, False, **options)
            closing.set()
            shutdown(pool, wait)

        monkeypatch.setattr(ThreadPoolExecutor, "shutdown", shut_down)
        batches = embed_images(Model(), decode, 23, 2)
        next(batches)
        batches.close()
        assert starts in ([0], [0, 2])  # a batch that had begun is finished, and no other begins

    def test_errors_are_raised_in_the_order_of_the_batches(self):
        def failing(start, stop):
            if start >= 6:
                raise ValueError(f"frame {start} is damaged")
            return FACES[start:stop]

        model = Model()
        batches = embed_images(model, failing, 23, 2)
        received = [next(batches) for _ in range(3)]
        np.testing.assert_array_equal(np.concatenate(received), embedded_plainly(2)[:6])
        with pytest.raises(ValueError, match="frame 6 is damaged"):
            next(batches)
        assert model.batches == [2, 2, 2]
        assert not decoding_threads()

    @pytest.mark.parametrize("how", ["closed", "forgotten", "finished", "never started", "model fails"])
    def test_no_thread_outlives_its_caller(self, how):
        model, started = Model(), threading.Event()

        def decode(start, stop):
            started.set()
            return FACES[start:stop]

        batches = embed_images(model, decode, 23, 2)
        if how != "never started":
            next(batches)
            assert started.is_set()
        if how == "closed":
            batches.close()
        elif how == "finished":
            list(batches)
        elif how == "model fails":
            model.embed = lambda faces: 1 / 0
            with pytest.raises(ZeroDivisionError) as error:
                next(batches)
            assert not decoding_threads()  # while the error still refers to its stack frames
            del error
        del batches
        gc.collect()
        assert not decoding_threads()


class TestEmbedPairs:
    @pytest.mark.parametrize("batch_size", [1, 5, 64])
    @pytest.mark.parametrize("flip", [False, True])
    def test_both_images_of_every_pair_are_embedded(self, batch_size, flip):
        first, second = embed_pairs(Model(), Pairs(), batch_size, flip=flip)
        whole = np.concatenate(list(embed_images(Model(), decode, 22, batch_size, flip=flip)))
        np.testing.assert_array_equal(first, whole[0::2])
        np.testing.assert_array_equal(second, whole[1::2])
        assert first.shape == (11, 4)

    def test_a_progress_bar_is_shown(self, capsys, monkeypatch):
        monkeypatch.setattr("sys.stderr.isatty", lambda: True)
        embed_pairs(Model(), Pairs(), progress=True)
        assert " images/s]" in capsys.readouterr().err
        embed_pairs(Model(), Pairs())
        assert not capsys.readouterr().err


class TestEmbedInto:
    @pytest.mark.parametrize("flip", [False, True])
    def test_the_store_is_filled(self, tmp_path, flip, capsys, monkeypatch):
        monkeypatch.setattr("sys.stderr.isatty", lambda: True)
        with FeatureStore(tmp_path, {}, 23) as store:
            embed_into(store, Model(), decode, 5, flip=flip, progress="frames")
            np.testing.assert_array_equal(store.features, embedded_plainly(5, flip=flip))
            assert " frames/s]" in capsys.readouterr().err
            embed_into(store, None, None, 5)  # A full store needs neither model nor decoder.
            assert not capsys.readouterr().err

    @pytest.mark.parametrize("flush_seconds", [0, 1e9])
    @pytest.mark.parametrize("failing_batch", range(5))
    def test_interrupted_runs_give_the_same_bits(self, tmp_path, monkeypatch, flush_seconds, failing_batch):
        monkeypatch.setattr("eval.embedding.feature_store._FLUSH_SECONDS", flush_seconds)
        model = Model()

        def failing(faces):
            if len(model.batches) == failing_batch:
                raise KeyboardInterrupt
            return Model.embed(model, faces)

        model.embed = failing
        with pytest.raises(KeyboardInterrupt), FeatureStore(tmp_path, {}, 23) as store:
            embed_into(store, model, decode, 5)
        assert not decoding_threads()
        model = Model()
        with FeatureStore(tmp_path, {}, 23) as store:
            assert store.num_done == 5 * failing_batch
            embed_into(store, model, decode, 5)
            assert model.batches == [5, 5, 5, 5, 3][failing_batch:]
            np.testing.assert_array_equal(store.features, embedded_plainly(5))

    def test_a_run_continues_with_another_batch_size(self, tmp_path):
        with FeatureStore(tmp_path, {}, 23) as store:
            store.append(embedded_plainly(5)[:10])
            model = Model()
            embed_into(store, model, decode, 8)
            assert model.batches == [6, 7]

    def test_a_store_that_fails_leaves_no_thread(self, tmp_path):
        with FeatureStore(tmp_path, {}, 23) as store:
            store.append(np.ones((5, 3), np.float32))
            with pytest.raises(ValueError, match=r"\(5, 4\)") as error:
                embed_into(store, Model(), decode, 5)
            assert not decoding_threads()
            del error
