from __future__ import annotations

import pytest

from weft.util.annotations import Deprecated, DeveloperAPI, PublicAPI, WeftDeprecationWarning


def test_marks_leave_what_they_mark_as_it_is() -> None:
    def function() -> int:
        """Return one."""
        return 1

    assert PublicAPI(function) is function
    assert function() == 1
    assert function.__doc__ == "Return one."
    assert DeveloperAPI(api_group="Tools")(function) is function


def test_docstring_says_how_stable_it_is() -> None:
    @PublicAPI(stability="beta")
    class Mixer:
        """Mixes."""

    @DeveloperAPI
    def function() -> None:
        pass

    assert Mixer.__doc__ == "Mixes.\n\nStability: beta.\n"
    assert "developers" in str(function.__doc__)


def test_deprecated_function_warns_if_asked_to() -> None:
    @Deprecated(message="Use new.", warning=True)
    def old() -> int:
        return 1

    @Deprecated
    def older() -> int:
        return 2

    with pytest.warns(WeftDeprecationWarning, match=r"old is deprecated: Use new\."):
        assert old() == 1
    assert older() == 2
    assert "Deprecated: Use new." in str(old.__doc__)


def test_deprecated_class_warns_when_an_instance_is_made() -> None:
    @Deprecated(warning=True)
    class Old:
        def __init__(self, number: int) -> None:
            self.number = number

    with pytest.warns(DeprecationWarning, match="Old is deprecated"):
        assert Old(3).number == 3


def test_wrong_options_are_refused() -> None:
    with pytest.raises(ValueError, match="stability"):
        PublicAPI(stability="solid")
    with pytest.raises(TypeError, match="stabilty"):
        PublicAPI(stabilty="beta")  # type: ignore[call-overload]
    with pytest.raises(TypeError):
        DeveloperAPI("tools")  # type: ignore[call-overload]
