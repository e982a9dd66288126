from __future__ import annotations

import math
import pickle
import random
from collections import Counter
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from weft.exceptions import OptionError
from weft.lowlevel import override
from weft.tune.search.sample import (
    Categorical,
    Domain,
    Float,
    Integer,
    Sampler,
    Uniform,
    choice,
    lograndint,
    loguniform,
    qlograndint,
    qloguniform,
    qrandint,
    qrandn,
    quniform,
    randint,
    randn,
    sample_from,
    uniform,
)

if TYPE_CHECKING:
    from collections.abc import Callable

DOMAINS: list[Domain] = [
    uniform(-2.5, 3),
    quniform(-1, 1, 0.1),
    quniform(0.05, 1, 0.1),
    loguniform(1e-6, 10),
    qloguniform(0.01, 1, 0.01),
    randn(10, 2),
    qrandn(0, 1, 0.25),
    randint(-7, 3),
    qrandint(1, 10, 3),
    lograndint(1, 1000),
    qlograndint(4, 64, 4),
    choice(["a", None, 1, True]),
    Float(0, 1),
    Integer(0, 3),
]
LARGEST = math.nextafter(1.0, 0.0)


@pytest.mark.parametrize("domain", DOMAINS, ids=repr)
@given(share=st.floats(0, LARGEST))
def test_value_at_any_share_is_valid_and_has_a_share_of_its_own(
    domain: Domain, share: float
) -> None:
    value = domain.value_at(share)
    assert domain.is_valid(value)
    assert 0 <= domain.share_of(value) < 1
    again = domain.value_at(domain.share_of(value))
    if isinstance(value, float):
        # Far out, the shares of a normal draw lie too close together for a float.
        assert math.isclose(again, value, rel_tol=1e-6, abs_tol=1e-6) or abs(value) > 5
    else:
        assert again is value or again == value


@pytest.mark.parametrize("domain", DOMAINS, ids=repr)
def test_values_grow_with_their_share(domain: Domain) -> None:
    if not isinstance(domain, Categorical):
        values = [domain.value_at(number / 100) for number in range(100)]
        assert values == sorted(values)
        assert values[0] < values[-1]


@pytest.mark.parametrize("domain", DOMAINS, ids=repr)
def test_same_seed_draws_the_same(domain: Domain) -> None:
    assert domain.sample(size=20, random_state=3) == domain.sample(size=20, random_state=3)
    assert domain.sample(random_state=3) == domain.sample(size=20, random_state=3)[0]


@pytest.mark.parametrize("domain", DOMAINS, ids=repr)
def test_domain_travels(domain: Domain) -> None:
    again = pickle.loads(pickle.dumps(domain))
    assert again.sample(size=9, random_state=1) == domain.sample(size=9, random_state=1)


def draws(domain: Domain, number: int = 4000) -> list[Any]:
    values: list[Any] = domain.sample(size=number, random_state=0)
    return values


def test_uniform_draws_spread_evenly() -> None:
    values = draws(uniform(-2, 6))
    assert -2 <= min(values) < -1.9
    assert 5.9 < max(values) < 6
    assert fmean(values) == pytest.approx(2, abs=0.15)


def test_upper_bound_of_randint_is_excluded_and_that_of_qrandint_included() -> None:
    assert set(draws(randint(-2, 2))) == {-2, -1, 0, 1}
    assert set(draws(qrandint(-2, 2))) == {-2, -1, 0, 1, 2}
    assert set(draws(qrandint(2, 10, 4))) == {4, 8}
    assert set(draws(lograndint(1, 4))) == {1, 2, 3}
    assert set(draws(qlograndint(2, 8, 2))) == {2, 4, 6, 8}


def test_multiples_are_equally_likely_and_written_as_the_step_is() -> None:
    counts = Counter(draws(quniform(0, 0.3, 0.1)))
    assert sorted(counts) == [0.0, 0.1, 0.2, 0.3]
    assert min(counts.values()) > 900


def test_logarithms_are_uniform() -> None:
    values = draws(loguniform(1e-4, 1))
    assert min(values) >= 1e-4
    assert max(values) <= 1
    assert fmean(map(math.log10, values)) == pytest.approx(-2, abs=0.1)


def test_base_of_the_logarithm_changes_nothing() -> None:
    assert draws(loguniform(1, 9, base=2)) == draws(loguniform(1, 9))


def test_normal_draws_have_mean_and_deviation() -> None:
    values = draws(randn(5, 2))
    assert fmean(values) == pytest.approx(5, abs=0.15)
    assert stdev(values) == pytest.approx(2, abs=0.15)
    assert all(value * 4 == round(value * 4) for value in draws(qrandn(0, 1, 0.25)))


def test_integers_are_ints_and_floats_are_floats() -> None:
    for integers in (qrandint(0, 9, 3), lograndint(1, 9), randint(0, 9), qlograndint(1, 9, 1)):
        assert type(integers.sample()) is int
    for domain in (quniform(0, 9, 1), qloguniform(1, 9, 1), uniform(1, 2), qrandn(0, 1, 1)):
        assert type(domain.sample()) is float


def test_choice_knows_true_from_one() -> None:
    domain = choice([1, True, "1"])
    assert [domain.share_of(value) for value in (1, True, "1")] == [1 / 6, 3 / 6, 5 / 6]
    assert not domain.is_valid(1.0)
    assert not choice([1]).is_valid(True)


def test_choice_is_a_sequence() -> None:
    domain = choice(iter("ab"))
    assert len(domain) == 2
    assert domain[1] == "b"


def test_validity_is_about_type_bounds_and_step() -> None:
    assert uniform(0, 1).is_valid(np.float64(0.5))
    assert randint(0, 9).is_valid(np.int64(5))
    assert not uniform(0, 1).is_valid(True)
    assert not uniform(0, 1).is_valid("0.5")
    assert not uniform(0, 1).is_valid(math.nan)
    assert not uniform(0, 1).is_valid(1.5)
    assert not randint(0, 9).is_valid(9)
    assert not randint(0, 9).is_valid(0.5)
    assert not quniform(0, 1, 0.1).is_valid(0.25)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: choice([]), "no values"),
        (lambda: Categorical([]), "no values"),
        (lambda: uniform(1, 0), "not below"),
        (lambda: uniform(1, 1), "not below"),
        (lambda: uniform(0, math.nan), "not below"),
        (lambda: uniform(0, math.inf), "without bounds"),
        (lambda: randint(3, 3), "not below"),
        (lambda: randint(0, 2.5), "no integer"),  # type: ignore[arg-type]
        (lambda: loguniform(0, 1), "positive"),
        (lambda: loguniform(-1, 1), "positive"),
        (lambda: loguniform(1, math.inf), "positive, finite"),
        (lambda: lograndint(0, 9), "positive"),
        (lambda: loguniform(1, 2, base=1), "base"),
        (lambda: quniform(0, 1, 0), "q=0"),
        (lambda: quniform(0, 1, -0.5), "q=-0.5"),
        (lambda: quniform(0.1, 0.2, 1), "no multiple"),
        (lambda: qrandint(1, 2, 5), "no multiple"),
        (lambda: qrandint(1, 2, 0.5), "integer"),  # type: ignore[arg-type]
        (lambda: randn(0, 0), "sd > 0"),
        (lambda: randn(math.nan, 1), "finite mean"),
        (lambda: Float(0, 1).normal(), "keeps no bounds"),
        (lambda: Float(None, None).sample(), "without bounds"),
        (lambda: uniform(0, 1).uniform(), "has a sampler"),
        (lambda: choice([1]).grid(), "has a sampler"),
        (lambda: Categorical([1]).grid().sample(), "tried one by one"),
        (lambda: sample_from(3), "give a function"),  # type: ignore[arg-type]
        (lambda: sample_from(lambda _a, _b, _c: 0), "(config, random)"),
        (lambda: sample_from(lambda: 0).value_at(0.5), "not ordered"),
        (lambda: sample_from(lambda: 0).share_of(0), "not ordered"),
    ],
)
def test_impossible_domain_is_an_error_of_one_line(make: Callable[[], object], says: str) -> None:
    with pytest.raises(OptionError) as raised:
        make()
    assert says in str(raised.value)
    assert "\n" not in str(raised.value)


def test_domain_says_what_it_is() -> None:
    assert repr(uniform(0, 1)) == "Float(0.0, 1.0).uniform()"
    assert "q=2" in repr(qrandint(0, 9, 2))
    assert repr(choice(["a"])) == "Categorical(['a']).uniform()"
    assert uniform(0, 1).domain_str == "(0.0, 1.0)"
    assert "<lambda>" in repr(sample_from(lambda: 0))


def test_functions_get_as_much_as_they_ask_for() -> None:
    rng = random.Random(1)
    assert sample_from(lambda: 7).sample() == 7
    assert sample_from(lambda config: config).sample("config") == "config"
    assert sample_from(lambda config, rng: (config, rng)).sample("c", random_state=rng) == (
        "c",
        rng,
    )
    # A loop's variable is often bound so.
    assert sample_from(lambda config, extra=5: (config, extra)).sample("c") == ("c", 5)
    assert sample_from(lambda: 7).is_function()
    assert sample_from(lambda: 7).is_valid("anything")
    assert sample_from(lambda: 7).sample(size=3) == [7, 7, 7]
    assert sample_from(dict).sample({"a": 1}) == {"a": 1}


@pytest.mark.parametrize(
    "make",
    [
        lambda: 4,
        lambda: np.int64(4),
        lambda: "4",
        lambda: random.Random(4),
        lambda: np.random.default_rng(4),
        lambda: np.random.RandomState(4),
    ],
)
def test_any_kind_of_generator_seeds(make: Callable[[], Any]) -> None:
    domain = uniform(0, 1)
    assert domain.sample(random_state=make()) == domain.sample(random_state=make())


def test_without_a_seed_the_module_random_seeds() -> None:
    domain = uniform(0, 1)
    random.seed(5)
    first = domain.sample()
    assert domain.sample() != first
    random.seed(5)
    assert domain.sample() == first


def test_a_sampler_of_ones_own_draws() -> None:
    class Always(Sampler):
        @override
        def sample(
            self, domain: Any, config: Any = None, size: int = 1, random_state: Any = None
        ) -> Any:
            return domain.lower

    domain = Integer(3, 9)
    domain.set_sampler(Always())
    assert domain.sample() == 3
    with pytest.raises(OptionError, match="has a sampler"):
        domain.set_sampler(Uniform())
    domain.set_sampler(Uniform(), allow_override=True)
    assert 3 <= domain.sample() < 9
