"""Search with hyperopt's TPE, conditional spaces included.

Numbers are searched as shares of their domains' draws: hyperopt sees uniform numbers in [0, 1], and
choices. Choices that hold domains are choices of hyperopt that hold nodes.

Every suggestion looks at all trials, and takes the longer the more there are: about 10 us each.

Source: Bergstra, Yamins, Cox, "Making a Science of Model Search", ICML 2013.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from weft.exceptions import OptionError
from weft.lowlevel import lazy, override
from weft.tune.search.box_searcher import coordinate_of, value_of
from weft.tune.search.extras import required
from weft.tune.search.model_searcher import ModelSearcher
from weft.tune.search.points import put_point, value_at_path
from weft.tune.search.sample import Categorical, Domain
from weft.tune.search.variant_generator import parse_spec_vars, path_name, resolve

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import hyperopt

    from weft.tune.search.searcher import Config
    from weft.tune.search.variant_generator import Given, Path
    from weft.tune.views import Outcome, TrialView

    Labels = dict[tuple[Path, Domain], str]
else:
    hyperopt = lazy("hyperopt")


class HyperOptSearch(ModelSearcher):
    """Search with hyperopt's tree-structured Parzen estimator.

    Args:
        space: The space, unless the Tuner has it: domains of Weft, or hyperopt's nodes.
        metric: What to look at in results.
        mode: "min" or "max".
        points_to_evaluate: Configurations, or parts of them, that are tried first.
        n_initial_points: How many trials are drawn at random before TPE takes over.
        random_state_seed: The seed; None: the experiment's, else a random one.
        gamma: The share of trials that count as good ones.

    Raises:
        ImportError: hyperopt is not installed.
    """

    def __init__(
        self,
        space: Config | None = None,
        metric: str | None = None,
        mode: str | None = None,
        points_to_evaluate: Sequence[Mapping[str, Any]] | None = None,
        n_initial_points: int = 20,
        *,
        random_state_seed: int | None = None,
        gamma: float = 0.25,
    ) -> None:
        required("hyperopt", extra="hyperopt")
        super().__init__(space, metric, mode, points_to_evaluate, seed=random_state_seed)
        self._algorithm = partial(
            hyperopt.tpe.suggest, n_startup_jobs=n_initial_points, gamma=gamma, verbose=False
        )
        self._running: dict[str, dict[str, Any]] = {}

    @staticmethod
    def convert_search_space(spec: Config, prefix: str = "") -> dict[str, Any]:
        """Return hyperopt's nodes for a space; numbers are shares in [0, 1]."""
        nodes: dict[str, Any] = _nodes(spec, (prefix,) if prefix else (), {})
        return nodes

    @override
    def _open(self) -> None:
        if len(self.objectives) > 1:
            raise OptionError("HyperOptSearch searches for one objective: give one metric")
        self._labels: Labels = {}
        domains = parse_spec_vars(self._space)[1]
        self._is_own = not domains
        self._domains = [(path, domain) for path, domain in domains if not domain.is_function()]
        nodes = self._space if self._is_own else _nodes(self._space, (), self._labels)
        self._nodes = hyperopt.pyll.as_apply(nodes)
        self._model = hyperopt.base.Domain(None, self._nodes, pass_expr_memo_ctrl=False)
        if not self._model.params:
            raise OptionError("HyperOptSearch: there is no domain in the search space")
        for point in self._points:
            self._fixed_by(point)  # It fits, or that is said before anything runs.
        self._trials = hyperopt.Trials()

    @override
    def _propose(self, trial_id: str) -> Config:
        rng, point = self._generator(), self._next_point()
        ids = self._trials.new_trial_ids(1)
        self._trials.refresh()
        [trial] = self._algorithm(ids, self._model, self._trials, rng.getrandbits(31))
        drawn = trial["misc"]["vals"]
        drawn.update({label: [value] for label, value in self._fixed_by(point).items()})
        self._trials.insert_trial_docs([trial])
        self._running[trial_id] = next(
            kept for kept in reversed(self._trials._dynamic_trials) if kept["tid"] == trial["tid"]
        )
        taken = {label: found[0] for label, found in drawn.items() if found}
        if self._is_own:
            own: Config = hyperopt.space_eval(self._nodes, taken)
            return dict(own)

        def draw(path: Path, domain: Domain, given: Given) -> Any:
            if domain.is_function():
                return domain.sample(given, random_state=rng)
            if (path, domain) not in self._labels:
                raise OptionError(
                    f"{path_name(path)}: HyperOptSearch cannot search what a function returns; use"
                    " OptunaSearch"
                )
            return value_of(domain, taken[self._labels[path, domain]])

        config: Config = resolve(put_point(self._space, point), draw)
        return config

    def _fixed_by(self, point: Mapping[str, Any]) -> dict[str, Any]:
        """Return what a point says, by hyperopt's labels."""
        if self._is_own:
            for name in point.keys() - self._model.params.keys():
                raise OptionError(
                    f"points_to_evaluate: the search space has no {name!r}, it has"
                    f" {', '.join(self._model.params)}"
                )
            return dict(point)
        placed = put_point(self._space, point)
        fixed = {}
        for path, domain in self._domains:
            value = value_at_path(placed, path)
            if value is not domain:
                fixed[self._labels[path, domain]] = coordinate_of(domain, value)
        return fixed

    @override
    def _learn(self, trial: TrialView, values: list[float] | None, outcome: Outcome) -> None:
        running = self._running.pop(trial.trial_id, None)
        if running is None:
            return
        if outcome == "failed":  # Its parameters are not to blame.
            running["state"] = hyperopt.JOB_STATE_ERROR
        else:
            running["state"] = hyperopt.JOB_STATE_DONE
            running["result"] = (
                {"status": hyperopt.STATUS_OK, "loss": self._losses(values)[0]}
                if values
                else {"status": hyperopt.STATUS_FAIL}
            )
        self._trials.refresh()


def _nodes(value: Any, path: Path, labels: Labels, branch: str = "") -> Any:
    """Return hyperopt's nodes for domains; what is no domain, and functions, stay away."""
    if isinstance(value, dict):
        return {
            str(key): _nodes(child, (*path, key), labels, branch) for key, child in value.items()
        }
    if isinstance(value, list):
        return [_nodes(child, (*path, at), labels, branch) for at, child in enumerate(value)]
    if not isinstance(value, Domain) or value.is_function():
        return None
    # Several options of a choice may have something of the same name.
    label = labels[path, value] = path_name(path) + branch
    if isinstance(value, Categorical):
        options = [
            _nodes(child, path, labels, f"{branch}#{number}")
            for number, child in enumerate(value.categories)
        ]
        return hyperopt.hp.choice(label, options)
    return hyperopt.hp.uniform(label, 0, 1)
