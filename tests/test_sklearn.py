"""SentimentClassifier where scikit-learn takes an estimator: cross-validation, searches, pipelines, metrics."""

import numpy as np
import pytest
from backbone import labelled_texts, write_backbone
from sklearn.base import clone, is_classifier
from sklearn.metrics import get_scorer
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils.validation import check_is_fitted

from sentimoe import SentimentClassifier
from sentimoe.errors import ConfigError

TOLD = {"method": "full", "max_length": 16, "batch_size": 8, "precision": "float32", "calibrate": False}
TEXTS, NAMES = labelled_texts(80)
STARS = np.array([5 if name == "positive" else 1 for name in NAMES])


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    backbone = write_backbone(tmp_path_factory.mktemp("backbone"))
    return SentimentClassifier(model=backbone, epochs=1, learning_rate=5e-3, **TOLD)


def test_cross_validation_is_stratified_and_scores_by_any_metric_of_labels(classifier):
    """One class after the other: without stratification a training part has one class alone, and fit refuses it."""
    assert is_classifier(classifier)
    order = np.argsort(STARS, kind="stable")
    scores = cross_val_score(
        classifier, [TEXTS[i] for i in order], STARS[order], cv=2, scoring="f1_macro", error_score="raise"
    )
    assert scores.shape == (2,) and (scores > 0.3).all()


def test_a_search_tries_settings_also_numbers_of_numpy(classifier):
    grid = {"clf__learning_rate": np.array([1e-8, 5e-3]), "clf__epochs": np.array([4])}
    chain = Pipeline([("clean", FunctionTransformer(_without_marks)), ("clf", clone(classifier))])
    search = GridSearchCV(chain, grid, cv=2, error_score="raise").fit([f"<b>{text}" for text in TEXTS], NAMES)
    assert search.best_params_ == {"clf__learning_rate": 5e-3, "clf__epochs": 4} and search.best_score_ > 0.9
    assert search.score([f"<b>{text}" for text in TEXTS], NAMES) > 0.9
    best = search.best_estimator_["clf"]
    check_is_fitted(best)
    assert best.config.epochs == 4 and type(best.config.epochs) is int
    assert classifier.config.epochs == 1 and get_scorer("roc_auc")(best, TEXTS, NAMES) > 0.9


def _without_marks(texts):
    return [text.replace("<b>", "") for text in texts]


def test_answers_are_labels_or_labels_with_scores(classifier):
    fitted = clone(classifier).fit(TEXTS, STARS.astype(float))  # as pandas has them where a cell is empty
    found = fitted.predict(TEXTS)
    assert found.dtype == STARS.dtype and fitted.score(TEXTS, STARS) == (found == STARS).mean()
    (answer,) = fitted(TEXTS[0])
    assert answer == {"label": int(found[0]), "score": pytest.approx(fitted.predict_proba(TEXTS[:1]).max())}
    assert fitted(TEXTS[:2])[0] == answer
    with pytest.raises(ConfigError, match="give a list"):
        fitted.predict(TEXTS[0])


def test_a_loaded_classifier_is_shown_and_not_copied(classifier):
    fresh = repr(clone(classifier))
    assert fresh.startswith("SentimentClassifier(") and "epochs=1" in fresh and "lora" not in fresh
    loaded = clone(classifier)
    loaded.config = None
    loaded._engine = type("Engine", (), {"label_names": ["bad", "good"]})()
    assert repr(loaded) == "SentimentClassifier(labels ['bad', 'good'], trained)"
    with pytest.raises(ConfigError, match="was loaded"):
        clone(loaded)
