"""Pictures of experiments, and the importance of parameters that they show."""

from __future__ import annotations

import random
import sys
from typing import TYPE_CHECKING, Any

import pytest

from weft import tune
from weft.tune._importance import importances
from weft.tune.error import TuneError

if TYPE_CHECKING:
    from pathlib import Path


def drawn(number: int) -> list[dict[str, Any]]:
    chance = random.Random(1)
    return [
        {
            "x": chance.uniform(0, 1), "y": chance.uniform(0, 1), "kind": chance.choice("abc"),
            "same": 1, "deep/noise": chance.uniform(0, 1),
        }
        for _ in range(number)
    ]  # fmt: skip


def test_parameter_that_decides_is_important_and_others_are_not() -> None:
    configs = drawn(400)
    found = importances(configs, [(config["x"] - 0.5) ** 2 for config in configs])
    assert next(iter(found)) == "x"
    assert found["x"] > 0.85
    assert all(found[name] < 0.05 for name in ("y", "kind", "deep/noise"))
    assert "same" not in found


def test_importance_is_the_share_of_the_variance() -> None:
    # Ranks 0..3 in bins of two: of the variance 5 lies 4 between them, and 0.5 of it is chance's.
    found = importances([{"k": "a"}, {"k": "a"}, {"k": "b"}, {"k": "b"}], [1.0, 2.0, 3.0, 4.0])
    assert found == {"k": pytest.approx((4 - 0.5) / (5 + 0.5))}


def test_categories_and_numbers_share_by_their_weights() -> None:
    configs = drawn(400)
    values = [config["y"] + 2 * (config["kind"] == "a") for config in configs]
    found = importances(configs, values)
    assert list(found)[:2] == ["kind", "y"]
    assert found["kind"] > 0.5
    assert 0.1 < found["y"] < 0.5


def test_one_trial_that_went_astray_does_not_decide() -> None:
    configs = drawn(100)
    values = [config["x"] for config in configs]
    before = importances(configs, values)
    values[values.index(max(values))] = 1e30
    assert importances(configs, values) == before


def test_too_few_trials_have_no_importance() -> None:
    assert importances([{"x": 1}, {"x": 2}], [1.0, 2.0]) == {"x": 0.0}
    assert importances([{"x": 1}, {"x": 1}], [1.0, 2.0]) == {}
    assert importances([{"x": 1}, {"x": 2}, {"x": 1}], [1.0, 1.0, 1.0]) == {"x": 0.0}


def train(config: dict[str, Any]) -> None:
    if config["kind"] == "bad":
        raise ValueError("a bad kind")
    tune.report({"loss": config["lr"], "gain": 1 - config["lr"], "odd": float("nan")})


@pytest.fixture(scope="module")
def grid(tmp_path_factory: pytest.TempPathFactory, session: None) -> tune.ResultGrid:
    pytest.importorskip("matplotlib")
    return tune.Tuner(
        train,
        param_space={
            "lr": tune.grid_search([1e-5, 1e-4, 1e-3, 1e-2, 1e-1]),
            "kind": tune.grid_search(["good", "bad", None]),
        },
        tune_config=tune.TuneConfig(metric="loss", mode="min"),
        run_config=tune.RunConfig(storage_path=str(tmp_path_factory.mktemp("plots")), verbose=0),
    ).fit()


@pytest.mark.slow
class TestPlot:
    def test_shows_all_kinds(self, grid: tune.ResultGrid, tmp_path: Path) -> None:
        figure = grid.plot()
        history, importance, parallel = figure.axes
        assert history.get_title() == "10 trials, 5 without a value; best 1e-05"
        assert history.get_yscale() == "log"
        assert [text.get_text() for text in importance.get_yticklabels()] == ["kind", "lr"]
        names = [text.get_text() for text in parallel.get_xticklabels()]
        assert names == ["lr\n(log)", "kind", "loss\n(log)"]
        figure.savefig(tmp_path / "all.png")
        assert (tmp_path / "all.png").read_bytes().startswith(b"\x89PNG")

    def test_best_so_far_goes_one_way(self, grid: tune.ResultGrid) -> None:
        (axes,) = grid.plot("history", metric="gain", mode="max").axes
        best = list(axes.get_lines()[0].get_ydata())
        assert best == sorted(best)
        assert best[-1] == 1 - 1e-5

    def test_best_trial_is_drawn_over_the_others(self, grid: tune.ResultGrid) -> None:
        (axes,) = grid.plot("parallel").axes
        best = axes.get_lines()[0]
        assert best.get_label() == "best"
        assert best.get_ydata()[-1] == 0

    def test_notebook_shows_it_by_itself(self, grid: tune.ResultGrid) -> None:
        assert grid.plot("importance")._repr_png_().startswith(b"\x89PNG")  # type: ignore[attr-defined]

    def test_what_cannot_be_drawn_is_said(self, grid: tune.ResultGrid) -> None:
        with pytest.raises(TuneError, match="give one of history, importance, parallel"):
            grid.plot("pie")
        with pytest.raises(TuneError, match="no trial has a finite value of 'odd'"):
            grid.plot(metric="odd")

    def test_missing_matplotlib_is_named(
        self, grid: tune.ResultGrid, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(sys.modules, "matplotlib", None)
        monkeypatch.delitem(sys.modules, "matplotlib.figure", raising=False)
        with pytest.raises(ImportError, match=r"pip install 'weft-tune\[plot\]'"):
            grid.plot()
