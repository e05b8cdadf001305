"""Tests errors, warnings and reports of a run, its time limit and its profile."""

import logging
from types import SimpleNamespace

import numpy as np
import pytest

from dataset.pipeline import PipelineOptions, TrainingBatches
from dataset.sampling.combine import CombinedSources
from dataset.sampling.shuffled import ShuffledSampler
from eval.embedding.extractor import NotFiniteError
from tests.dataset.samples import flip_bit, make_images, write_converted
from tests.training.small_loop import Batches, intervals, make_loop, names, result, with_validator
from tests.training.small_trainer import batch, make_trainer, weights
from training import monitoring
from training.distribution import make_strategy
from training.monitoring import check_embeddings, first_non_finite


class RecordBatches(TrainingBatches):
    """Real batches of one source. The net gets made-up images instead, because it is too small for faces."""

    def __init__(self, manifest, at=None, **options):
        sources = CombinedSources([manifest])
        super().__init__(sources, ShuffledSampler(sources.sizes, 8, 3), (112, 96), PipelineOptions(**options))
        self.at = at or {}

    def start_at(self, step):
        for k, (_, identities) in enumerate(super().start_at(step), step):
            yield self.at.get(k, lambda images: images)(batch(k, 8)[0]), identities


@pytest.fixture
def manifest(tmp_path):
    return write_converted(tmp_path / "faces", make_images(4, 6), num_shards=2)


def nan(images):
    return images * np.nan


def test_a_step_that_is_not_finite_is_reported(tmp_path, manifest):
    batches = RecordBatches(manifest, {4: nan})
    loop, _ = make_loop(tmp_path, batches=batches)
    path = tmp_path / "logs" / "nan_step_00000005.txt"
    with pytest.raises(FloatingPointError, match=rf"step 5: .* loss.*{path}"):
        loop.run()
    text = path.read_text()
    assert "Step 5 (batch 4," in text and "loss nan" in text
    lines = [line.split(maxsplit=1) for line in text.splitlines() if "record at byte" in line]
    index = manifest.open_index()
    records = batches.sampler.batch(4).tolist()
    for position, (record, line) in enumerate(zip(records, lines, strict=True)):
        shard = manifest.folder / manifest.shards[record // 12].name
        place = f"{shard}: record at byte {index['offset'][record]} (record {record} of faces, label "
        assert line == [str(position), f"{place}{record // 6}), identity {record // 6}"]
    # A run that resumes from step 3 writes the same report.
    path.unlink()
    again = make_loop(tmp_path, batches=RecordBatches(manifest, {4: nan}))[0]
    with pytest.raises(FloatingPointError):
        again.run()
    assert path.read_text() == text


def test_bad_images_are_logged_and_limited(tmp_path, manifest, caplog):
    caplog.set_level("INFO")
    bad = RecordBatches(manifest).sampler.batch(2)[3]
    shard = manifest.folder / manifest.shards[bad // 12].name
    flip_bit(shard, int(manifest.open_index()["offset"][bad]) + 300)
    loop, _ = make_loop(tmp_path, batches=RecordBatches(manifest, max_bad_images=1))
    assert loop.run() == 0
    logged = [r.getMessage() for r in caplog.records if "bad image" in r.getMessage()]
    # Logged once, after batch 2, although the image comes again in the next epoch.
    assert len(logged) == 2 and logged[0].startswith("step 4  bad image, replaced")
    assert f"{shard}: record at byte" in logged[0] and logged[1] == "step 4  1 bad image(s) so far"

    loop, trainer = make_loop(tmp_path / "strict", batches=RecordBatches(manifest, max_bad_images=0))
    with pytest.raises(ValueError, match="0 bad images"):
        loop.run()
    assert trainer.step == 2 and names(tmp_path / "strict" / "ckpt")[-1] == "step_00000002"


def test_weights_with_non_finite_embeddings_are_not_saved(tmp_path):
    """This also applies at a step that is due to be saved, even if the loss is finite."""
    answers = iter([result(), result(), NotFiniteError("image 7: expected a finite embedding, received NaN")])

    def validator():
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    every = intervals(show_info=2, summary=2, validate=2, save=1, export=100)
    loop, trainer = make_loop(tmp_path, max_steps=9, every=every)
    with pytest.raises(FloatingPointError, match=r"step 4: .* lfw: image 7"):
        with_validator(loop, validator).run()
    assert trainer.step == 4
    # The checkpoint of step 4 was written before the validation, and replaced the oldest one.
    assert names(tmp_path / "ckpt") == ["step_00000002", "step_00000003"]
    assert not (tmp_path / "models").exists()


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_non_finite_moving_statistics_are_not_saved(tmp_path, value):
    """The loss does not show them, because training uses the statistics of the batch."""
    loop, trainer = make_loop(tmp_path, max_steps=9)
    (statistics,) = [v for v in trainer.backbone.layers[2].variables if "variance" in v.path]

    def spoil(images):
        statistics.assign(statistics.numpy() * value)
        return images

    loop.batches = Batches({4: spoil})
    with pytest.raises(FloatingPointError, match=rf"step 6: {statistics.path}"):
        loop.run()
    assert names(tmp_path / "ckpt") == ["step_00000003"]


def test_finds_the_first_variable_that_is_not_finite():
    trainer = make_trainer(make_strategy())
    variables = [*trainer.backbone.variables, *trainer.optimizer.variables]
    assert first_non_finite(variables) is None
    assert any(v.dtype == "int64" for v in variables)
    value = variables[5].numpy()
    value.flat[-1] = -np.inf
    variables[5].assign(value)
    assert first_non_finite(variables) == variables[5].path


@pytest.mark.parametrize(
    "error", [FileNotFoundError(2, "No such file", "a/1.jpg"), ValueError("a/1.jpg: gone")]
)
def test_failed_validation_is_logged(tmp_path, caplog, error):
    answers = iter([result(0.6), error, result(0.7), error])

    def validator():
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    loop, trainer = make_loop(tmp_path)
    assert with_validator(loop, validator).run() == 0
    logged = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert [line.split(".")[0] for line in logged] == [
        "step 2  validation on lfw failed, 1 time(s) so far",
        "step 6  validation on lfw failed, 2 time(s) so far",
    ]
    assert all("a/1.jpg" in line for line in logged)
    assert trainer.step == 6 and names(tmp_path / "models") == ["iter_6_lfw_0.70000"]


def test_failed_validation_at_the_start_is_an_error(tmp_path):
    def validator():
        raise FileNotFoundError(2, "No such file", "a/1.jpg")

    loop, trainer = make_loop(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"a/1\.jpg"):
        with_validator(loop, validator).run()
    assert trainer.step == 0 and not (tmp_path / "ckpt").exists()


def embeddings(spread, num=400, signs=False):
    """Embeddings around one direction. With a `spread` of 0 all of them lie on it."""
    rng = np.random.default_rng(0)
    values = np.ones((num, 64)) + spread * rng.normal(size=(num, 64))
    return (values * rng.choice([-1, 1], (num, 1)) if signs else values).astype(np.float32)


def reference(values):
    directions = values / np.linalg.norm(values, axis=1, keepdims=True)
    cosines = [directions[i] @ directions[j] for i in range(len(values)) for j in range(i)]
    return np.sqrt(np.mean(np.square(cosines)))


@pytest.mark.parametrize(
    ("spread", "signs", "collapsed"),
    [(0, False, 1), (0.05, False, 1), (0.05, True, 1), (0.5, False, 0), (9, False, 0)],
)
def test_collapsed_embeddings_cause_a_warning(spread, signs, collapsed):
    values = embeddings(spread, signs=signs)
    scalars, warnings = check_embeddings("lfw", values)
    assert scalars["validation/lfw_rms_cosine"] == pytest.approx(reference(values), rel=1e-5)
    assert [warning.startswith("lfw: all embeddings") for warning in warnings] == collapsed * [True]


def test_zero_embeddings_cause_a_warning():
    values = embeddings(9)
    values[[3, 9]] = 0
    scalars, warnings = check_embeddings("ytf", values)
    assert scalars["validation/ytf_zero_embeddings"] == 2
    assert [warning.startswith("ytf: 2 of 400 embeddings are zero") for warning in warnings] == [True]


def test_collapse_is_logged_at_the_validation(tmp_path, caplog):
    loop, _ = make_loop(tmp_path, max_steps=2)
    with_validator(loop, lambda: (result()[0], embeddings(0))).run()
    logged = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert [line.split(":")[0] for line in logged] == ["step 0  lfw", "step 2  lfw"]


def test_a_run_stops_at_its_time_limit(tmp_path, caplog, monkeypatch):
    """The run is saved, and the same command resumes bit for bit."""
    caplog.set_level("INFO")
    unbroken, expected = make_loop(tmp_path / "unbroken", max_steps=7)
    unbroken.run()
    now = [1000.0]
    monkeypatch.setattr("training.monitoring.time", SimpleNamespace(monotonic=lambda: now[0]))

    def pass_time(images):
        now[0] += 40
        return images

    batches = Batches(dict.fromkeys(range(9), pass_time))
    loop, trainer = make_loop(tmp_path / "broken", max_steps=7, batches=batches, max_minutes=2)
    assert loop.run() == 0
    assert trainer.step == 3
    assert "Stopped after 2 minutes." in caplog.text and "Saved step 3 to" in caplog.text
    assert names(tmp_path / "broken" / "ckpt") == ["step_00000003"]
    assert not (tmp_path / "broken" / "models").exists()

    loop, resumed = make_loop(tmp_path / "broken", max_steps=7, max_minutes=2)
    assert loop.run() == 0
    for one, two in zip(weights(expected), weights(resumed), strict=True):
        np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize("num_steps", [6, 4])
def test_profile_changes_nothing(tmp_path, monkeypatch, num_steps):
    """This also applies if the run ends before the profile does."""
    monkeypatch.setattr(monitoring, "FIRST_PROFILED", 3)
    monkeypatch.setattr(monitoring, "LAST_PROFILED", 5)
    plain, expected = make_loop(tmp_path / "plain", max_steps=num_steps)
    plain.run()
    loop, trainer = make_loop(tmp_path / "profiled", max_steps=num_steps, profile=True)
    assert loop.run() == 0
    for one, two in zip(weights(expected), weights(trainer), strict=True):
        np.testing.assert_array_equal(one, two)
    (profile,) = (tmp_path / "profiled" / "summary" / "plugins" / "profile").rglob("*.xplane.pb")
    assert profile.stat().st_size > 1000
